//! What the writer's records carry: the log format, and row changes beside it.

use rdb_protocol::settings::LogFormat;

/// What the writer's records carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    pub format: LogFormat,
    /// Rows are watched while they change.
    pub(super) watched: bool,
    /// Rows stand beside every other payload.
    pub(super) beside: bool,
    /// They carry old values, for consumers.
    pub(super) old_values: bool,
    /// They carry the names of columns.
    pub(super) names: bool,
    /// They are summed up, for followers that apply them.
    pub(super) sums: bool,
    /// The group is another leader's.
    pub(super) replay: bool,
}

impl Recording {
    pub fn new(format: LogFormat) -> Recording {
        let logical = format == LogFormat::Logical;
        Recording { format, watched: logical, sums: logical, names: logical, ..Recording::default() }
    }

    /// Row changes for consumers go with every record.
    #[must_use]
    pub fn with_changes(self, wanted: bool) -> Recording {
        let beside = self.beside || wanted && self.format != LogFormat::Logical;
        Recording { watched: self.watched || wanted, beside, old_values: wanted, names: self.names || wanted, ..self }
    }

    /// Row changes go with every record, so that followers can apply those whose pages are laid out otherwise.
    #[must_use]
    pub fn for_any_layout(self, wanted: bool) -> Recording {
        let beside = self.beside || wanted && self.format != LogFormat::Logical;
        Recording { watched: self.watched || wanted, sums: self.sums || wanted, beside, ..self }
    }

    pub(super) fn replay() -> Recording {
        Recording { replay: true, ..Recording::default() }
    }

    /// Statements are written down.
    pub(super) fn statements(self) -> bool {
        matches!(self.format, LogFormat::Statement | LogFormat::Mixed)
    }

    /// Pages must be what statements alone make of them: nothing of deleted content may stay behind, for whether it does
    /// depends on what the cache holds.
    pub(super) fn canonical(self) -> bool {
        self.replay || self.statements()
    }
}
