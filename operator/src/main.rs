//! The `rdb-operator` binary.

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    print!("{}", rdb_operator::crd::definition::yaml().context("cannot make the resource definition")?);
    Ok(())
}
