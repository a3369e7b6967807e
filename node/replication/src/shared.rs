//! What a node knows in every role.
