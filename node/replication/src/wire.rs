//! Binary form of [`PeerMessage`].
use bytes::Bytes;

use crate::message::PeerMessage;

/// Epoch ends that a `Hello` carries at most.
pub const MAX_BOUNDARIES: usize = 4096;

/// Why bytes are not a message. The connection that brought them is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("message ends early")]
    Short,
    #[error("message format {0}; this node knows format 1: upgrade this node")]
    Version(u8),
    #[error("unknown kind of message {0}: upgrade this node")]
    Kind(u8),
    #[error("checksum differs")]
    Checksum,
    #[error("{0}")]
    Field(String),
}

/// Encodes one message (one WebSocket binary frame).
pub fn encode(_message: &PeerMessage) -> Vec<u8> {
    Vec::new()
}

/// Decodes one frame. Entries share the frame's buffer.
pub fn decode(_frame: Bytes) -> Result<PeerMessage, WireError> {
    Err(WireError::Short)
}
