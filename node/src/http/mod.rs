//! The node's HTTP port.
//!
//! | module | holds |
//! | --- | --- |
//! | [`backend`] | the border to the driver |
//! | [`values`] | SQL values in JSON |

pub mod auth;
pub mod backend;
mod errors;
mod request;
pub mod values;
