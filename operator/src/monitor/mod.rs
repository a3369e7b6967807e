//! Talking to nodes.
//!
//! | module | holds |
//! | --- | --- |
//! | [`stream`] | one status stream per instance |
//! | [`news`] | does a line say something new? |
//! | [`call`] | admin calls |
//! | [`http`] | the little HTTP that both need |
//! | [`tokens`] | the admin token, and the one before it |

pub mod call;
pub mod http;
pub mod news;
pub mod stream;
pub mod tokens;
