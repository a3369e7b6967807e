//! The operator: keeps `ReplicatedDB` resources of a Kubernetes cluster as they are asked to be.
//!
//! | module | holds |
//! | --- | --- |
//! | [`crd`] | the resource: type, schema, stored status |

pub mod crd;
