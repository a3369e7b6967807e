//! What clients' SQL may touch. SQLite asks while it compiles a statement, and again when it compiles it anew.
//!
//! Refused: the internal tables (`_rdb_…`) in every way, `sqlite_dbpage` (it reads and writes raw pages), ATTACH and
//! DETACH, temporary objects (they would live in one node's connection), transaction control, loading code, virtual
//! table modules that are not known to live inside of the database file, and the pragmas that [`crate::pragma`] does
//! not list. Direct writes to `sqlite_schema` are refused by SQLite itself (`writable_schema` cannot be turned on, and
//! the connection is in defensive mode).
//!
//! One hole of SQLite's interface is closed by text: ALTER TABLE … RENAME TO does not name its target here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use parking_lot::Mutex;
use rdb_protocol::api::ErrorCode;
use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use crate::pragma;
use crate::sql::text::{contains_word_part, starts_with_ignoring_case};

/// Prefix of everything internal in the schema.
pub(crate) const INTERNAL_PREFIX: &str = "_rdb_";

/// Modules whose tables live in ordinary tables of the same file, so that page records carry them.
const MODULES: &[&str] = &["fts3", "fts3tokenize", "fts4", "fts4aux", "fts5", "fts5vocab", "rtree", "rtree_i32"];

const BATCH_HINT: &str = "each request is one transaction by itself; send several statements together to /v1/batch";

/// What compiling a statement showed about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects(u8);

impl Effects {
    const SCHEMA: u8 = 1;
    const PRAGMA: u8 = 2;
    const DEFER: u8 = 4;
    const TABLE: u8 = 8;
    const QUERY: u8 = 16;
    const ALL_TABLES: u8 = 32;

    /// It may change the schema.
    pub(crate) fn schema(self) -> bool {
        self.0 & Effects::SCHEMA != 0
    }

    /// It changes the database by other means than rows.
    pub(crate) fn changes_for_sure(self) -> bool {
        self.0 & (Effects::SCHEMA | Effects::PRAGMA) != 0
    }

    /// It makes a table of what a query gives (CREATE TABLE … AS SELECT).
    pub(crate) fn fills_table(self) -> bool {
        self.0 & Effects::TABLE != 0 && self.0 & Effects::QUERY != 0
    }

    /// It may go through all tables, in the order of SQLite's own list of them.
    pub(crate) fn all_tables(self) -> bool {
        self.0 & Effects::ALL_TABLES != 0
    }

    /// Nothing but reading.
    pub(crate) fn none(self) -> bool {
        self.0 & !Effects::QUERY == 0
    }

    /// It defers foreign keys.
    pub(crate) fn defers(self) -> bool {
        self.0 & Effects::DEFER != 0
    }
}

/// Why a statement was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) message: String,
    pub(crate) hint: &'static str,
}

impl Denial {
    fn new(message: impl Into<String>, hint: &'static str) -> Denial {
        Denial { message: message.into(), hint }
    }

    pub(crate) fn into_parts(self) -> (ErrorCode, &'static str, String) {
        (ErrorCode::Forbidden, self.hint, self.message)
    }
}

/// Shared between a connection's callback and its user.
#[derive(Debug, Default)]
pub(crate) struct Authorizer {
    /// The statement is the engine's own.
    internal: AtomicBool,
    effects: AtomicU8,
    /// What the statement uses that would be something else on another node.
    unrepeatable: Mutex<Option<String>>,
    /// Tables that the statements since [`Authorizer::forget`] make, drop or alter, in lower case.
    touched: Mutex<BTreeSet<String>>,
    denial: Mutex<Option<Denial>>,
}

impl Authorizer {
    /// Puts an authorizer on a connection that runs clients' SQL.
    pub(crate) fn install(connection: &mut Connection) -> rusqlite::Result<Arc<Authorizer>> {
        let authorizer = Arc::new(Authorizer::default());
        let shared = Arc::clone(&authorizer);
        connection.authorizer(Some(move |context: AuthContext<'_>| shared.decide(&context)))?;
        Ok(authorizer)
    }

    /// Until [`Authorizer::end_internal`], statements are the engine's own and may do everything.
    pub(crate) fn begin_internal(&self) {
        self.internal.store(true, Ordering::Relaxed);
    }

    pub(crate) fn end_internal(&self) {
        self.internal.store(false, Ordering::Relaxed);
    }

    /// Before a client's statement is compiled, or run: then it may be compiled anew, and virtual tables compile their own.
    pub(crate) fn forget(&self) {
        self.effects.store(0, Ordering::Relaxed);
        *self.denial.lock() = None;
        *self.unrepeatable.lock() = None;
        self.touched.lock().clear();
    }

    pub(crate) fn take_touched(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.touched.lock())
    }

    pub(crate) fn take_unrepeatable(&self) -> Option<String> {
        self.unrepeatable.lock().take()
    }

    pub(crate) fn effects(&self) -> Effects {
        Effects(self.effects.load(Ordering::Relaxed))
    }

    pub(crate) fn take_denial(&self) -> Option<Denial> {
        self.denial.lock().take()
    }

    fn decide(&self, context: &AuthContext<'_>) -> Authorization {
        if self.internal.load(Ordering::Relaxed) {
            return Authorization::Allow;
        }
        // Temporary objects can be made without the word: CREATE TABLE temp.t.
        let temporary = context.database_name.is_some_and(|name| name.eq_ignore_ascii_case("temp"));
        if let AuthAction::CreateTable { table_name }
        | AuthAction::DropTable { table_name }
        | AuthAction::AlterTable { table_name, .. }
        | AuthAction::CreateVtable { table_name, .. }
        | AuthAction::DropVtable { table_name, .. } = context.action
        {
            self.touched.lock().insert(table_name.to_ascii_lowercase());
        }
        if let Some(what) = unrepeatable(&context.action) {
            self.unrepeatable.lock().get_or_insert(what);
        }
        match check(&context.action) {
            Ok(effects) if temporary && effects & Effects::SCHEMA != 0 => {
                *self.denial.lock() = Some(temporary_object());
                Authorization::Deny
            }
            Ok(effects) => {
                self.effects.fetch_or(effects, Ordering::Relaxed);
                Authorization::Allow
            }
            Err(denial) => {
                *self.denial.lock() = Some(denial);
                Authorization::Deny
            }
        }
    }
}

/// Functions of the connection's state. Not among them: `last_insert_rowid`, which begins at 0 in every transaction, and
/// `random` and `randomblob`, which are seeded.
const CONNECTION_FUNCTIONS: &[&str] = &["changes", "total_changes"];

/// What of an action depends on more than the database and the arguments.
fn unrepeatable(action: &AuthAction<'_>) -> Option<String> {
    let among = |names: &[&str], name: &str| names.iter().any(|known| known.eq_ignore_ascii_case(name));
    match *action {
        AuthAction::Function { function_name } if among(CONNECTION_FUNCTIONS, function_name) => {
            Some(format!("{function_name}()"))
        }
        AuthAction::Read { table_name, .. }
            if starts_with_ignoring_case(table_name, "pragma_")
                && !table_name.get("pragma_".len()..).is_some_and(pragma::is_repeatable) =>
        {
            Some(table_name.to_owned())
        }
        AuthAction::Pragma { pragma_name, .. } if !pragma::is_repeatable(pragma_name) => {
            Some(format!("PRAGMA {pragma_name}"))
        }
        _ => None,
    }
}

/// The effects of an allowed action.
fn check(action: &AuthAction<'_>) -> Result<u8, Denial> {
    use AuthAction as A;
    match *action {
        A::Select => Ok(Effects::QUERY),
        A::Recursive => Ok(0),
        A::Read { table_name: name, .. }
        | A::Insert { table_name: name }
        | A::Update { table_name: name, .. }
        | A::Delete { table_name: name } => names(&[name], 0),
        A::CreateTable { table_name: name } => names(&[name], Effects::SCHEMA | Effects::TABLE),
        A::CreateView { view_name: name }
        | A::DropTable { table_name: name }
        | A::DropView { view_name: name }
        | A::AlterTable { table_name: name, .. } => names(&[name], Effects::SCHEMA),
        A::CreateIndex { index_name: name, table_name }
        | A::DropIndex { index_name: name, table_name }
        | A::CreateTrigger { trigger_name: name, table_name }
        | A::DropTrigger { trigger_name: name, table_name } => names(&[name, table_name], Effects::SCHEMA),
        A::CreateVtable { table_name, module_name } | A::DropVtable { table_name, module_name } => {
            if !MODULES.iter().any(|known| known.eq_ignore_ascii_case(module_name)) {
                let message = format!("virtual tables of the module {module_name} are not allowed");
                return Err(Denial::new(message, "fts3, fts4, fts5 and rtree are"));
            }
            names(&[table_name], Effects::SCHEMA)
        }
        // Of internal tables too: harmless, and they come with REINDEX and ANALYZE of everything.
        A::Reindex { .. } | A::Analyze { .. } => Ok(Effects::SCHEMA | Effects::ALL_TABLES),
        A::Pragma { pragma_name, pragma_value } => pragma(pragma_name, pragma_value),
        A::Function { function_name } if function_name.eq_ignore_ascii_case("load_extension") => {
            Err(Denial::new("load_extension is not allowed", "the node runs no foreign code"))
        }
        A::Function { .. } => Ok(0),
        A::Attach { .. } | A::Detach { .. } => {
            Err(Denial::new("ATTACH and DETACH are not allowed", "a node has one database"))
        }
        // The module fts3 opens it for its own work; clients' SAVEPOINT is refused before it gets here.
        A::Savepoint { savepoint_name: "fts3", .. } => Ok(0),
        A::Transaction { .. } | A::Savepoint { .. } => Err(transaction_control()),
        A::CreateTempIndex { .. }
        | A::CreateTempTable { .. }
        | A::CreateTempTrigger { .. }
        | A::CreateTempView { .. }
        | A::DropTempIndex { .. }
        | A::DropTempTable { .. }
        | A::DropTempTrigger { .. }
        | A::DropTempView { .. } => Err(temporary_object()),
        A::Unknown { arg1, arg2, .. } => names(&[arg1.unwrap_or(""), arg2.unwrap_or("")], 0),
        _ => Err(Denial::new("this kind of statement is not allowed", "")),
    }
}

fn names(names: &[&str], effects: u8) -> Result<u8, Denial> {
    for name in names {
        if starts_with_ignoring_case(name, INTERNAL_PREFIX) {
            let message = format!("{name} is internal");
            return Err(Denial::new(message, "names that begin with _rdb_ belong to the node"));
        }
        if starts_with_ignoring_case(name, "sqlite_dbpage") {
            return Err(Denial::new("sqlite_dbpage is not allowed", "raw pages are the node's"));
        }
    }
    Ok(effects)
}

fn pragma(name: &str, value: Option<&str>) -> Result<u8, Denial> {
    names(&[value.unwrap_or("")], 0)?;
    match pragma::verdict(name, value) {
        pragma::Verdict::Read => Ok(0),
        pragma::Verdict::Write => Ok(Effects::PRAGMA),
        pragma::Verdict::DeferKeys => Ok(Effects::DEFER),
        pragma::Verdict::Refuse(hint) => Err(Denial::new(format!("PRAGMA {name} is not allowed here"), hint)),
    }
}

fn temporary_object() -> Denial {
    Denial::new(
        "temporary tables, views and triggers are not allowed",
        "they would exist in one node's connection only; use an ordinary table",
    )
}

fn transaction_control() -> Denial {
    Denial::new("BEGIN, COMMIT, ROLLBACK and SAVEPOINT are not allowed", BATCH_HINT)
}

/// What must be refused by its text, before SQLite compiles it. `word` is its first word.
pub(crate) fn check_text(word: &str, sql: &str) -> Result<(), Denial> {
    let is = |other: &&str| word.eq_ignore_ascii_case(other);
    if ["BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"].iter().any(&is) {
        return Err(transaction_control());
    }
    if is(&"VACUUM") {
        return Err(Denial::new(
            "VACUUM is not allowed here",
            "send it as a write of its own, without arguments, a schema's name or INTO",
        ));
    }
    // A quoted name has no escapes but the doubled quote, so the target of a rename stands in the text as it is.
    if is(&"ALTER") && contains_word_part(sql, INTERNAL_PREFIX) {
        return Err(Denial::new("names that begin with _rdb_ are not allowed", "they belong to the node"));
    }
    Ok(())
}
