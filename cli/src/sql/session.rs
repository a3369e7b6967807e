//! Sends statements one by one.
//!
//! Every write carries an idempotency key and is sent again during a failover, so that it takes effect exactly once. The API
//! has no open transactions: after BEGIN, statements are collected, and COMMIT sends them as one batch, which runs in one
//! transaction.

use std::time::Duration;

use rdb_protocol::api::{
    Args, BatchRequest, BatchResponse, Consistency, ErrorCode, ExecuteRequest, ExecuteResponse, QueryRequest,
    Statement, StatementResult, Token,
};

use crate::args::{ReadLevel, SqlOptions};
use crate::client::{Client, ClientError, MARGIN, Patience};
use crate::script::words;

/// A failover takes a second or two, or as many as detectionTimeout says; who types waits no longer than this for one that
/// does not come.
const PATIENCE: Duration = Duration::from_secs(15);

/// The default of `access.transactionTimeout`, which holds where no deadline is given.
const DEFAULT_DEADLINE_MS: u64 = 5000;

/// Words with which a statement begins that is surely or probably only a read. If it is not, the node says so before it
/// runs anything, and the statement is sent as a write.
const READS: [&str; 5] = ["SELECT", "VALUES", "WITH", "EXPLAIN", "PRAGMA"];

/// What came of a statement.
#[derive(Debug)]
pub enum Ran {
    Results(Vec<StatementResult>),
    /// A transaction is collected from here on.
    Begun,
    /// Put into the transaction.
    Queued,
    /// The transaction was thrown away.
    RolledBack,
}

pub struct Session<'a> {
    client: &'a Client,
    pub consistency: Consistency,
    max_staleness_ms: u64,
    deadline_ms: Option<u64>,
    /// The last position that was seen, for reads of level `session`.
    position: Option<Token>,
    transaction: Option<Vec<Statement>>,
    key_client: String,
    key_sequence: u64,
}

impl<'a> Session<'a> {
    pub fn new(client: &'a Client, options: &SqlOptions) -> std::io::Result<Session<'a>> {
        Ok(Session {
            client,
            consistency: consistency(options.consistency),
            max_staleness_ms: options.max_staleness_ms,
            deadline_ms: options.deadline_ms,
            position: None,
            transaction: None,
            key_client: format!("sql-{}", crate::text::random_hex()?),
            key_sequence: 0,
        })
    }

    pub fn client(&self) -> &Client {
        self.client
    }

    /// Statements that wait for COMMIT.
    pub fn pending(&self) -> usize {
        self.transaction.as_ref().map_or(0, Vec::len)
    }

    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Runs one statement, or keeps it for later.
    pub fn run(&mut self, sql: &str) -> Result<Ran, ClientError> {
        let first = words(sql).next().unwrap_or_default().to_ascii_uppercase();
        match (first.as_str(), self.transaction.take()) {
            ("BEGIN", None) => {
                self.transaction = Some(Vec::new());
                Ok(Ran::Begun)
            }
            ("COMMIT" | "END", Some(statements)) => self.batch(statements).map(Ran::Results),
            ("ROLLBACK", Some(_)) => Ok(Ran::RolledBack),
            (_, Some(mut statements)) => {
                statements.push(Statement { sql: sql.to_owned(), args: Args::default() });
                self.transaction = Some(statements);
                Ok(Ran::Queued)
            }
            (word, None) if READS.contains(&word) => match self.query(sql, self.consistency) {
                Err(ClientError::Api(error)) if error.code == ErrorCode::ReadOnly => self.execute(sql),
                other => other,
            }
            .map(|result| Ran::Results(vec![result])),
            (_, None) => self.execute(sql).map(|result| Ran::Results(vec![result])),
        }
    }

    /// A read.
    pub fn query(&mut self, sql: &str, consistency: Consistency) -> Result<StatementResult, ClientError> {
        // A session that has seen nothing yet may be shown anything.
        let consistency = match (consistency, self.position) {
            (Consistency::Session, None) => Consistency::Any,
            (consistency, _) => consistency,
        };
        let request = QueryRequest {
            sql: sql.to_owned(),
            args: Args::default(),
            consistency,
            position: if consistency == Consistency::Session { self.position } else { None },
            max_staleness_ms: (consistency == Consistency::Bounded).then_some(self.max_staleness_ms),
            deadline_ms: self.deadline_ms,
        };
        let answer: ExecuteResponse = self.client.post_read("/v1/query", &request, self.patience().answer)?;
        self.saw(answer.position);
        Ok(answer.result)
    }

    fn execute(&mut self, sql: &str) -> Result<StatementResult, ClientError> {
        let request = ExecuteRequest { sql: sql.to_owned(), args: Args::default(), deadline_ms: self.deadline_ms };
        let key = self.next_key();
        let answer: ExecuteResponse = self.client.post_once("/v1/execute", &request, &key, self.patience())?;
        self.saw(answer.position);
        Ok(answer.result)
    }

    fn batch(&mut self, statements: Vec<Statement>) -> Result<Vec<StatementResult>, ClientError> {
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        let request = BatchRequest { statements, deadline_ms: self.deadline_ms };
        let key = self.next_key();
        let answer: BatchResponse = self.client.post_once("/v1/batch", &request, &key, self.patience())?;
        self.saw(answer.position);
        Ok(answer.results)
    }

    fn patience(&self) -> Patience {
        let answer = Duration::from_millis(self.deadline_ms.unwrap_or(DEFAULT_DEADLINE_MS)) + MARGIN;
        Patience { total: PATIENCE.max(answer), answer, unreachable: false }
    }

    fn next_key(&mut self) -> String {
        self.key_sequence += 1;
        format!("{}:{}", self.key_client, self.key_sequence)
    }

    fn saw(&mut self, position: Token) {
        let rank = |token: Token| (token.epoch, token.index);
        if self.position.is_none_or(|seen| rank(seen) < rank(position)) {
            self.position = Some(position);
        }
    }
}

pub fn consistency(level: ReadLevel) -> Consistency {
    match level {
        ReadLevel::Linearizable => Consistency::Linearizable,
        ReadLevel::Session => Consistency::Session,
        ReadLevel::Bounded => Consistency::Bounded,
        ReadLevel::Any => Consistency::Any,
    }
}
