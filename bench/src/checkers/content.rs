//! All nodes hold the same, table by table.

use std::collections::{BTreeMap, BTreeSet};

/// Hash of each table's rows in key order, by table name.
pub type Tables = BTreeMap<String, u64>;

/// Names of tables that are not the same everywhere, each with the nodes' hashes (`None`: the node has no such table).
pub fn differences(nodes: &BTreeMap<String, Tables>) -> BTreeMap<String, Vec<(String, Option<u64>)>> {
    let names: BTreeSet<&String> = nodes.values().flat_map(BTreeMap::keys).collect();
    let mut found = BTreeMap::new();
    for name in names {
        let hashes: Vec<(String, Option<u64>)> =
            nodes.iter().map(|(node, tables)| (node.clone(), tables.get(name).copied())).collect();
        if hashes.windows(2).any(|pair| pair[0].1 != pair[1].1) {
            found.insert(name.clone(), hashes);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_differs_or_is_missing_is_named() {
        let tables = |pairs: &[(&str, u64)]| pairs.iter().map(|(n, h)| (n.to_string(), *h)).collect::<Tables>();
        let mut nodes = BTreeMap::from([
            ("a".to_owned(), tables(&[("t", 1), ("u", 2)])),
            ("b".to_owned(), tables(&[("t", 1), ("u", 2)])),
        ]);
        assert!(differences(&nodes).is_empty());
        nodes.insert("c".to_owned(), tables(&[("t", 9), ("u", 2)]));
        assert_eq!(differences(&nodes).keys().collect::<Vec<_>>(), ["t"]);
        nodes.insert("c".to_owned(), tables(&[("t", 1)]));
        assert_eq!(differences(&nodes).keys().collect::<Vec<_>>(), ["u"]);
    }
}
