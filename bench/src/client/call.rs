//! Typed calls to one node, and what a failure says about the request.

use std::time::Duration;

use rdb_protocol::api::{
    ApiError, BatchResponse, Consistency, ErrorResponse, ExecuteResponse, Outcome, Retry, StatementResult, Token,
};
use rdb_protocol::status::NodeStatus;
use serde::Serialize;
use serde_json::{Value, json};

use super::wire::{Connection, RequestBuilder, WireError};

/// How much longer than the request's own deadline the client waits: the node answers at the deadline, the rest is for
/// a machine whose two cores are busy.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The node answered with an error.
    #[error("{0}")]
    Api(ApiError),
    #[error(transparent)]
    Wire(#[from] WireError),
    /// No answer within the deadline and the grace time.
    #[error("no answer in time")]
    Silent,
    /// An answer that is none of those that the API has.
    #[error("answer with status {status} is not understood: {body}")]
    Strange { status: u16, body: String },
}

impl CallError {
    /// May the request have taken effect, or take effect yet? This is the question that the exactly-once check rests on,
    /// so whatever is not known to be harmless counts as a yes.
    pub fn may_have_run(&self) -> bool {
        match self {
            CallError::Api(error) => error.outcome == Outcome::Unknown,
            CallError::Wire(WireError::Connect { .. }) => false,
            CallError::Wire(_) | CallError::Silent | CallError::Strange { .. } => true,
        }
    }

    /// Would the same request fail again, whoever is asked?
    pub fn is_final(&self) -> bool {
        matches!(self, CallError::Api(error) if error.retry == Retry::Never)
    }
}

/// A successful answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub results: Vec<StatementResult>,
    pub position: Token,
}

impl Answer {
    /// Rows of the first statement.
    pub fn rows(&self) -> &[Vec<Value>] {
        self.results.first().map_or(&[], |result| &result.rows)
    }
}

/// One client of one node; reconnects by itself.
#[derive(Debug)]
pub struct Client {
    address: String,
    token: Option<String>,
    connection: Option<Connection>,
    request: Vec<u8>,
}

impl Client {
    pub fn new(address: &str, token: Option<&str>) -> Client {
        Client { address: address.to_owned(), token: token.map(str::to_owned), connection: None, request: Vec::new() }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// One writing statement.
    pub async fn execute(
        &mut self,
        sql: &str,
        args: Value,
        key: Option<&str>,
        deadline: Duration,
    ) -> Result<Answer, CallError> {
        let body = json!({"sql": sql, "args": args, "deadline_ms": deadline.as_millis() as u64});
        self.post("/v1/execute", key, &body, deadline).await?;
        self.answer::<ExecuteResponse>().map(Answer::from)
    }

    /// Several statements in one transaction.
    pub async fn batch(
        &mut self,
        statements: &[(&str, Value)],
        key: Option<&str>,
        deadline: Duration,
    ) -> Result<Answer, CallError> {
        let statements: Vec<Value> = statements.iter().map(|(sql, args)| json!({"sql": sql, "args": args})).collect();
        let body = json!({"statements": statements, "deadline_ms": deadline.as_millis() as u64});
        self.post("/v1/batch", key, &body, deadline).await?;
        self.answer::<BatchResponse>().map(Answer::from)
    }

    /// A read. `position` only with `session`.
    pub async fn query(
        &mut self,
        sql: &str,
        args: Value,
        consistency: Consistency,
        position: Option<Token>,
        deadline: Duration,
    ) -> Result<Answer, CallError> {
        let mut body = json!({
            "sql": sql, "args": args, "consistency": consistency, "deadline_ms": deadline.as_millis() as u64,
        });
        if let Some(position) = position {
            body["position"] = json!(position);
        }
        self.post("/v1/query", None, &body, deadline).await?;
        self.answer::<ExecuteResponse>().map(Answer::from)
    }

    /// What the node reports about itself.
    pub async fn status(&mut self, limit: Duration) -> Result<NodeStatus, CallError> {
        RequestBuilder::get("/v1/status", self.token.as_deref()).write(&mut self.request, None, &[]);
        self.exchange(limit).await?;
        self.answer()
    }

    /// Hands `GET path` to `take` piece by piece; gives the status code.
    pub async fn download(&mut self, path: &str, take: impl FnMut(&[u8])) -> Result<u16, CallError> {
        RequestBuilder::get(path, self.token.as_deref()).write(&mut self.request, None, &[]);
        // A connection of its own: the stream may end only when the connection does.
        let mut connection = Connection::open(&self.address).await?;
        Ok(connection.download(&self.request, take).await?.status)
    }

    async fn post(
        &mut self,
        path: &str,
        key: Option<&str>,
        body: &impl Serialize,
        deadline: Duration,
    ) -> Result<(), CallError> {
        let body = serde_json::to_vec(body).map_err(|_| WireError::Malformed("request body"))?;
        RequestBuilder::post(path, self.token.as_deref()).write(&mut self.request, key, &body);
        self.exchange(deadline + GRACE).await
    }

    /// Sends the prepared request; on success the answer is in the connection's buffer and its status was 200.
    async fn exchange(&mut self, limit: Duration) -> Result<(), CallError> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closing() => connection,
            // Opening is timed apart: a connection that was never made carried no request.
            _ => match tokio::time::timeout(limit, Connection::open(&self.address)).await {
                Ok(opened) => opened?,
                Err(_) => {
                    let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
                    return Err(WireError::Connect { address: self.address.clone(), source }.into());
                }
            },
        };
        // A connection on which anything went wrong is dropped: a late answer must not be taken for the next one's.
        let head = match tokio::time::timeout(limit, connection.exchange(&self.request)).await {
            Ok(head) => head?,
            Err(_) => return Err(CallError::Silent),
        };
        let status = head.status;
        let connection = self.connection.insert(connection);
        if status == 200 {
            return Ok(());
        }
        match serde_json::from_slice::<ErrorResponse>(connection.body()) {
            Ok(response) => Err(CallError::Api(response.error)),
            Err(_) => Err(strange(status, connection.body())),
        }
    }

    fn answer<T: serde::de::DeserializeOwned>(&self) -> Result<T, CallError> {
        let body = self.connection.as_ref().map_or(&[][..], Connection::body);
        serde_json::from_slice(body).map_err(|_| strange(200, body))
    }
}

fn strange(status: u16, body: &[u8]) -> CallError {
    let shown = &body[..body.len().min(300)];
    CallError::Strange { status, body: String::from_utf8_lossy(shown).into_owned() }
}

impl From<ExecuteResponse> for Answer {
    fn from(response: ExecuteResponse) -> Answer {
        Answer { results: vec![response.result], position: response.position }
    }
}

impl From<BatchResponse> for Answer {
    fn from(response: BatchResponse) -> Answer {
        Answer { results: response.results, position: response.position }
    }
}
