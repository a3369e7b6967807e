//! The node's HTTP port.
//!
//! | module | holds |
//! | --- | --- |
//! | [`backend`] | the border to the driver |
//! | [`values`] | SQL values in JSON |

pub mod backend;
pub mod values;
