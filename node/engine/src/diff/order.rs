//! The order of lines: as statements, one after the other, they can be run. Tables that others refer to come before those when
//! rows are made, and after them when rows go.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::comparing;
use crate::error::EngineError;

/// Before or after the rows?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// What may stand in the way of rows goes, what they need comes.
    Before,
    /// What is made of rows, or would act on their being written, comes; emptied tables go.
    After,
}

/// Where a line about the schema belongs; `old` and `new` say on which sides there is something.
pub(super) fn part_of(kind: &str, old: bool, new: bool) -> Part {
    match (kind == "table", old, new) {
        (true, true, false) | (false, false, true) => Part::After,
        _ => Part::Before,
    }
}

/// `names`, parents first.
pub(super) fn parents_first<'a>(
    connection: &Connection,
    names: impl Iterator<Item = &'a String>,
) -> Result<Vec<&'a String>, EngineError> {
    let mut parents: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for side in ["old", "new"] {
        let sql = format!(
            "SELECT lower(m.name), lower(f.\"table\") FROM {side}.sqlite_schema m, pragma_foreign_key_list(m.name, '{side}') f
             WHERE m.type = 'table'"
        );
        let mut list = connection.prepare(&sql).map_err(comparing)?;
        let pairs = list.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(comparing)?;
        for pair in pairs {
            let (child, parent): (String, String) = pair.map_err(comparing)?;
            parents.entry(child).or_default().push(parent);
        }
    }
    let names: BTreeMap<String, &String> = names.map(|name| (name.to_ascii_lowercase(), name)).collect();
    let (mut seen, mut ordered) = (BTreeSet::new(), Vec::new());
    for start in names.keys() {
        // A walk with its own stack: chains of references may be long.
        let mut stack = vec![(start.as_str(), false)];
        while let Some((name, done)) = stack.pop() {
            if done {
                ordered.extend(names.get(name));
            } else if seen.insert(name) {
                stack.push((name, true));
                stack.extend(parents.get(name).into_iter().flatten().map(|parent| (parent.as_str(), false)));
            }
        }
    }
    Ok(ordered)
}
