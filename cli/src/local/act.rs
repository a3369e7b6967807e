//! Admin calls to nodes: one short-lived thread and one connection per call, so that no call ever waits for another.
//!
//! Connections are not kept: one that was pooled may end at a process that is gone, and then nobody knows whether the call
//! was obeyed. A new one on loopback costs less than a tenth of a millisecond.

use std::sync::Arc;
use std::time::Duration;

use rdb_control::{AdminCall, CallOutcome};
use rdb_protocol::admin::{AdminRefusal, LeaseAnswer, Recruit};
use serde_json::Value;

/// A healthy node answers within a few disk flushes; a frozen one must not hold a call for longer than this.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes calls with the admin token.
#[derive(Clone)]
pub struct Caller {
    agent: ureq::Agent,
    token: Arc<str>,
}

/// How a call ended.
pub struct Answer {
    pub outcome: CallOutcome,
    /// Of a fence that was obeyed.
    pub recruit: Option<Recruit>,
}

impl Caller {
    pub fn new(token: &str) -> Caller {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(CALL_TIMEOUT))
            .max_idle_connections(0)
            .proxy(None)
            .max_redirects(0)
            .build()
            .new_agent();
        Caller { agent, token: token.into() }
    }

    /// Starts a call; `done` is called once, from another thread.
    pub fn start(&self, address: &str, call: &AdminCall, done: impl FnOnce(Answer) + Send + 'static) {
        let url = format!("http://{address}/v1/admin/{}", call.kind().path());
        let is_fence = matches!(call, AdminCall::Fence(_));
        let failed = |message: String| Answer { outcome: CallOutcome::Failed(message), recruit: None };
        let body = match call.body() {
            Ok(body) => body,
            Err(error) => return done(failed(error.to_string())),
        };
        let caller = self.clone();
        // `done` is used by the thread or, if there is none to be had, not at all: the call then counts as in flight until
        // `decide` gives it up. A machine without room for a thread has worse problems.
        let thread = std::thread::Builder::new().name("admin-call".to_owned()).spawn(move || {
            done(caller.post(&url, &body).and_then(|text| read_answer(is_fence, &text)).unwrap_or_else(
                |stop| match stop {
                    Stop::Refused(refusal) => Answer { outcome: CallOutcome::Refused(refusal), recruit: None },
                    Stop::Failed(message) => failed(message),
                },
            ));
        });
        if let Err(error) = thread {
            tracing::error!(%error, "cannot start a thread for an admin call");
        }
    }

    /// Answers a leader's lease request; nobody waits for the result, the leader asks again.
    pub fn answer_lease(&self, address: &str, answer: &LeaseAnswer) {
        let (caller, url) = (self.clone(), format!("http://{address}/v1/admin/lease"));
        let Ok(body) = serde_json::to_value(answer) else { return };
        let thread = std::thread::Builder::new().name("lease-answer".to_owned()).spawn(move || {
            if let Err(Stop::Failed(message)) = caller.post(&url, &body) {
                tracing::debug!(%message, "lease answer not delivered");
            }
        });
        if let Err(error) = thread {
            tracing::error!(%error, "cannot start a thread for a lease answer");
        }
    }

    fn post(&self, url: &str, body: &Value) -> Result<Vec<u8>, Stop> {
        let failed = |error: ureq::Error| Stop::Failed(error.to_string());
        let request = self.agent.post(url).header("Authorization", format!("Bearer {}", self.token));
        let mut response = request.send_json(body).map_err(failed)?;
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_vec().map_err(failed)?;
        match status {
            200 => Ok(text),
            409 => match serde_json::from_slice(&text) {
                Ok(refusal) => Err(Stop::Refused(refusal)),
                Err(error) => Err(Stop::Failed(format!("unreadable refusal: {error}"))),
            },
            _ => {
                let text: String = String::from_utf8_lossy(&text).chars().take(200).collect();
                Err(Stop::Failed(format!("HTTP {status}: {text}")))
            }
        }
    }
}

/// Why there is no good answer.
enum Stop {
    Refused(AdminRefusal),
    Failed(String),
}

fn read_answer(is_fence: bool, text: &[u8]) -> Result<Answer, Stop> {
    let recruit = if is_fence {
        // A fence without a readable answer tells nothing about the node's position: it did not happen, for us.
        let recruit =
            serde_json::from_slice(text).map_err(|error| Stop::Failed(format!("unreadable answer: {error}")))?;
        Some(recruit)
    } else {
        None
    };
    Ok(Answer { outcome: CallOutcome::Done, recruit })
}
