//! Printing: tables for people, JSON and YAML for programs. The only module that knows the YAML library.

use std::io::Write;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

use crate::Failure;
use crate::args::ReportFormat;
use crate::text::printable;

/// A table without borders; its cells are made safe for a terminal.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header);
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().trim_start_matches(' ').to_owned()).collect();
    lines.join("\n")
}

/// Prints `value` as asked for; `as_table` makes the human form.
pub fn report<T: Serialize>(format: ReportFormat, value: &T, as_table: impl FnOnce() -> String) -> Result<(), Failure> {
    let other = |error: &dyn std::fmt::Display| Failure::Other(error.to_string());
    let text = match format {
        ReportFormat::Table => as_table(),
        ReportFormat::Json => serde_json::to_string_pretty(value).map_err(|error| other(&error))?,
        ReportFormat::Yaml => serde_yaml::to_string(value).map_err(|error| other(&error))?.trim_end().to_owned(),
    };
    line(&text)
}

/// Prints a line. A closed pipe (`rdb … | head`) ends the output and is no failure of ours to report with a panic.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Failure::io("standard output"))
}

/// Reads YAML (or JSON, which is YAML).
pub fn parse_yaml(text: &str) -> Result<serde_json::Value, String> {
    serde_yaml::from_str(text).map_err(|error| error.to_string())
}
