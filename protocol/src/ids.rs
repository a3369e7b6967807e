//! Who and when: names, incarnations, epochs, indexes, chains and positions.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Number of a leadership term: strictly increasing, unique by compare-and-swap; the fencing token. 0 = never led.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    pub const ZERO: Epoch = Epoch(0);

    /// The epoch after this one.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a log record: contiguous from 1 over the life of the cluster. 0 = before the first record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Index(pub u64);

impl Index {
    pub const ZERO: Index = Index(0);

    /// The index after this one.
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The index before this one; that of 0 is 0.
    pub fn previous(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Error of parsing an identifier from text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    #[error("expected 16 hexadecimal digits, got {0:?}")]
    Hex(String),
    #[error(
        "a name must be 1–63 characters of a-z, 0-9 and '-', starting and ending with a letter or digit, got {0:?}"
    )]
    Name(String),
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let bad = || ParseIdError::Hex(text.to_owned());
                if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(bad());
                }
                u64::from_str_radix(text, 16).map($name).map_err(|_| bad())
            }
        }

        // Text in JSON, where numbers beyond 2^53 are not safe.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                String::json_schema(generator)
            }
        }
    };
}

hex_id! {
    /// Running 64-bit hash over all records up to an index: equal positions mean equal histories. 0 before the first.
    Chain
}
hex_id! {
    /// Random number, new for every fresh, wiped, re-seeded or cloned data directory (rule 18).
    Incarnation
}
hex_id! {
    /// Random number of a cluster, given at bootstrap; a data directory belongs to one cluster for good.
    ClusterId
}

/// Where a log ends, or a database stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Epoch of the record at `index`.
    pub epoch: Epoch,
    pub index: Index,
    pub chain: Chain,
}

impl Position {
    /// Before the first record.
    pub const ZERO: Position = Position { epoch: Epoch(0), index: Index(0), chain: Chain(0) };

    /// The order by which a successor is chosen (rule 8): epoch of the last record first, then index.
    pub fn rank(&self) -> (Epoch, Index) {
        crate::if_planted!(IndexComparedAlone => { return (Epoch::ZERO, self.index); });
        (self.epoch, self.index)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.index)
    }
}

// Clones share the text.
/// Name of a node within its cluster, a DNS label such as `orders-2`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeName(#[cfg_attr(feature = "schema", schemars(with = "String"))] Arc<str>);

impl NodeName {
    /// Takes a DNS label. Errors: [`ParseIdError::Name`].
    pub fn new(name: impl Into<String>) -> Result<NodeName, ParseIdError> {
        let name = name.into();
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = name.as_bytes();
        let inner = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
        if bytes.len() > 63 || !inner || !edge(bytes.first()) || !edge(bytes.last()) {
            return Err(ParseIdError::Name(name));
        }
        Ok(NodeName(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for NodeName {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        NodeName::new(text)
    }
}

impl Serialize for NodeName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        NodeName::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// One data directory of one node. A name with another incarnation is another member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Member {
    pub name: NodeName,
    pub incarnation: Incarnation,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.incarnation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_survives_json_beyond_2_pow_53() {
        let chain = Chain(u64::MAX - 1);
        let json = serde_json::to_string(&chain).unwrap();
        assert_eq!(json, "\"fffffffffffffffe\"");
        assert_eq!(serde_json::from_str::<Chain>(&json).unwrap(), chain);
        assert!(serde_json::from_str::<Chain>("\"+ffffffffffffffe\"").is_err());
    }

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "orders-2", "0"] {
            assert!(NodeName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/../b", &"x".repeat(64)] {
            assert!(NodeName::new(bad).is_err(), "{bad}");
        }
    }
}
