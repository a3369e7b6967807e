//! The API server's side.
//!
//! | module | holds |
//! | --- | --- |
//! | [`cache`] | objects as they were last reported, by cluster |
//! | [`follow`] | watches that keep the caches and wake the clusters' tasks |
//! | [`lease`] | the operator's own Lease |
//! | [`events`] | Events for people |
//! | [`api`] | a greatest time for every request, and what an error means |

pub mod api;
pub mod cache;
pub mod events;
pub mod follow;
pub mod lease;
