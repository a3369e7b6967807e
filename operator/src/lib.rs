//! The operator: keeps `ReplicatedDB` resources of a Kubernetes cluster as they are asked to be.
//!
//! | module | holds |
//! | --- | --- |
//! | [`build`] | the objects of a cluster, as they should be |
//! | [`crd`] | the resource: type, schema, stored status |
//! | [`snapshots`] | scheduled volume snapshots, and seeding from them |

pub mod build;
pub mod crd;
pub mod snapshots;
