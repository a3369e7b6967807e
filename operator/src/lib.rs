//! The operator: keeps `ReplicatedDB` resources of a Kubernetes cluster as they are asked to be.
