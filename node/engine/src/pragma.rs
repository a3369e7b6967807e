//! Which pragmas clients may use. What is not listed is refused: a pragma can change how the connection commits, and
//! new ones appear with new versions of SQLite.

/// What the authorizer does about a pragma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It reports something.
    Read,
    /// It changes the database file, and is logged like any other write.
    Write,
    /// It makes this transaction's foreign keys deferred.
    DeferKeys,
    /// Refused with this hint.
    Refuse(&'static str),
}

/// Report something about what their argument names, or about everything.
const REPORTS: &[&str] = &[
    "foreign_key_check",
    "foreign_key_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// Report a property of the database or connection when used without an argument.
const PROPERTIES: &[&str] = &[
    "analysis_limit",
    "application_id",
    "auto_vacuum",
    "automatic_index",
    "busy_timeout",
    "cache_size",
    "cell_size_check",
    "collation_list",
    "compile_options",
    "data_version",
    "database_list",
    "defer_foreign_keys",
    "encoding",
    "foreign_keys",
    "freelist_count",
    "function_list",
    "ignore_check_constraints",
    "journal_mode",
    "journal_size_limit",
    "legacy_alter_table",
    "locking_mode",
    "max_page_count",
    "mmap_size",
    "module_list",
    "page_count",
    "page_size",
    "pragma_list",
    "query_only",
    "recursive_triggers",
    "reverse_unordered_selects",
    "schema_version",
    "secure_delete",
    "synchronous",
    "temp_store",
    "trusted_schema",
    "user_version",
    "wal_autocheckpoint",
];

/// Change the file as a transaction does.
const WRITES: &[&str] = &["application_id", "incremental_vacuum", "optimize", "user_version"];

/// Do the same, or say the same, on every node whose databases are equal. The others tell of the connection, the process or its
/// files.
const REPEATABLE: &[&str] = &[
    "application_id",
    "auto_vacuum",
    "defer_foreign_keys",
    "encoding",
    "foreign_key_check",
    "foreign_key_list",
    "foreign_keys",
    "freelist_count",
    "incremental_vacuum",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "page_count",
    "page_size",
    "quick_check",
    "schema_version",
    "table_info",
    "table_xinfo",
    "user_version",
];

pub(crate) fn is_repeatable(name: &str) -> bool {
    REPEATABLE.iter().any(|known| known.eq_ignore_ascii_case(name))
}

pub(crate) fn verdict(name: &str, value: Option<&str>) -> Verdict {
    let is = |other: &&str| name.eq_ignore_ascii_case(other);
    if REPORTS.iter().any(&is) {
        return Verdict::Read;
    }
    if value.is_none() && PROPERTIES.iter().any(&is) {
        return Verdict::Read;
    }
    if WRITES.iter().any(&is) {
        return Verdict::Write;
    }
    if is(&"defer_foreign_keys") {
        return Verdict::DeferKeys;
    }
    Verdict::Refuse(if is(&"foreign_keys") {
        "foreign keys are always on; PRAGMA defer_foreign_keys = ON defers them to the end of a batch"
    } else if PROPERTIES.iter().any(is) {
        "it can be read, but the node decides it"
    } else {
        "the node manages its connections and files itself"
    })
}
