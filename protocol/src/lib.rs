//! The words that node, operator and command line share: who (members), when (epoch, index, position), under which
//! rule (cluster config), and what they say to each other (admin calls, status, client API).
//!
//! | module | holds |
//! | --- | --- |
//! | [`ids`] | epoch, index, chain, position, member, incarnation |
//! | [`config`] | the cluster config (K, W) and the arithmetic of rules 3 and 4 |
//! | [`settings`] | modes, formats and the parameters that a node is run with |
//! | [`status`] | what a node reports about itself |
//! | [`admin`] | the operator's calls to a node and their answers |
//! | [`api`] | the JSON of the client API `/v1` |
//!
//! The crate only depends on serde, so that everything that talks to a node can use it.

pub mod admin;
pub mod api;
pub mod config;
pub mod ids;
#[cfg(feature = "planted")]
pub mod planted;
pub mod settings;
pub mod status;

pub use config::{BOOTSTRAP_VERSION, ClusterConfig, ConfigPair};
pub use ids::{Chain, ClusterId, Epoch, Incarnation, Index, Member, NodeName, Position};

/// Runs the block if this bug is planted here and now; nothing at all without the feature `planted` of the calling crate.
#[macro_export]
macro_rules! if_planted {
    ($bug:ident => $block:block) => {
        #[cfg(feature = "planted")]
        {
            if $crate::planted::is_planted($crate::planted::Bug::$bug) $block
        }
    };
}
