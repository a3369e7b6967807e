//! The table of error codes in `docs/operations.md` is made from the code. `RDB_BLESS=1 cargo test -p rdb-protocol` writes it.

use rdb_protocol::api::{ErrorCode, Outcome, Retry};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
const SOURCE: &str = include_str!("../src/api.rs");
const BEGIN: &str = "<!-- error codes: begin -->\n";
const END: &str = "<!-- error codes: end -->";

/// What a person does about it; a client goes by `retry` and `outcome`.
fn advice(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BadRequest => "Correct the request; the message says where it differs.",
        ErrorCode::NotFound => "See `/v1/openapi.json` for all paths.",
        ErrorCode::Unauthorized => "Compare the token with the file that the node was started with.",
        ErrorCode::RequestTooLarge => "Send less at once, or raise the limit.",
        ErrorCode::ResultTooLarge => "Ask for less (`LIMIT`), or raise the limit.",
        ErrorCode::SqlError => "Correct the statement or its arguments.",
        ErrorCode::Constraint => "Change the values.",
        ErrorCode::Forbidden => "Do without; the hint names another way where there is one.",
        ErrorCode::ReadOnly => "Send it to `execute` or `batch`.",
        ErrorCode::Timeout => "Make the statement cheaper, or allow more time with `deadline_ms`.",
        ErrorCode::NoLeader => "Wait for the failover. If it lasts: [nobody leads](#nobody-leads).",
        ErrorCode::NotLeader => "Clients do not see it: the node that forwarded the request tries again.",
        ErrorCode::UnknownOutcome => {
            "Send it again with the same key; without a key, read before you write again. If it lasts: [writes wait](#writes-wait)."
        }
        ErrorCode::NotYet => "Allow more time or staleness, or read at another node.",
        ErrorCode::PositionLost => "Drop the session's position and read again: writes that it saw are gone.",
        ErrorCode::Unavailable => "Ask another node; this one's `problems` say why.",
        ErrorCode::Overloaded => "Send less at once; try again after a pause.",
        ErrorCode::DiskFull => "[Free space](#a-disk-is-full); no restart is needed.",
        ErrorCode::KeyReused => "Give every new request a new sequence.",
        ErrorCode::OutcomeUnknownKey => "The request was not committed, or more than an hour ago.",
        ErrorCode::Internal => "Report it with the node's log.",
    }
}

/// The comments of `error_codes!` in the source, by code.
fn meaning(code: ErrorCode) -> String {
    let from = SOURCE.find("\nerror_codes! {").expect("the codes are listed in a macro");
    let end = format!("= \"{code}\",");
    let mut comment = String::new();
    for line in SOURCE[from..].lines().map(str::trim) {
        match line.strip_prefix("/// ") {
            Some(text) if comment.is_empty() => comment.push_str(text),
            Some(text) => comment.extend([" ", text]),
            None if line.contains(&end) => return comment,
            None => comment.clear(),
        }
    }
    panic!("{code} is not in the list");
}

fn table() -> String {
    let mut table = String::from(
        "| code | HTTP | retry | outcome | meaning | what to do |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for &code in ErrorCode::ALL {
        let error = code.error("", "");
        let retry = match error.retry {
            Retry::Safe => "safe",
            Retry::WithKey => "with-key",
            Retry::Never => "never",
        };
        let outcome = match error.outcome {
            Outcome::None => "none",
            Outcome::Unknown => "unknown",
        };
        let (http, meaning, advice) = (code.http_status(), meaning(code), advice(code));
        table.push_str(&format!("| `{code}` | {http} | {retry} | {outcome} | {meaning} | {advice} |\n"));
    }
    table
}

#[test]
fn the_page_lists_every_code_as_it_is() {
    let page = std::fs::read_to_string(PAGE).expect("the page is there");
    let (before, rest) = page.split_once(BEGIN).expect("the page marks the table's begin");
    let (shown, after) = rest.split_once(END).expect("the page marks the table's end");
    let table = table();
    if std::env::var_os("RDB_BLESS").is_some() {
        std::fs::write(PAGE, format!("{before}{BEGIN}{table}{END}{after}")).expect("the page can be written");
    } else {
        assert_eq!(shown, table, "RDB_BLESS=1 cargo test -p rdb-protocol writes the page anew");
    }
}
