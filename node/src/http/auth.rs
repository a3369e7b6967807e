//! Who may call what: three bearer tokens, for clients, peers and the operator. Tokens come from files, are compared in
//! constant time and are never logged.
//!
//! A token that is not configured admits callers from loopback only: on the same machine whoever may connect could read the
//! files as well, and from elsewhere nobody is to get in by mistake.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use rdb_protocol::api::{ApiError, ErrorCode};
use subtle::ConstantTimeEq;

/// A longer file is not a token file but a mistake.
const MAX_TOKEN_BYTES: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot read the token file {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("the token file {path} {problem}")]
    Content { path: String, problem: &'static str },
}

/// A secret. Its `Debug` tells nothing.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn new(token: impl Into<String>) -> Secret {
        Secret(token.into())
    }

    /// Reads a token file; white space at its ends does not count.
    pub fn read(path: &Path) -> Result<Secret, TokenError> {
        let name = || path.display().to_string();
        let content = |problem| TokenError::Content { path: name(), problem };
        let text = std::fs::read_to_string(path).map_err(|source| TokenError::Read { path: name(), source })?;
        let token = text.trim();
        if token.is_empty() {
            return Err(content("is empty"));
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(content("is longer than 4096 bytes"));
        }
        if !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(content("holds characters that a header cannot carry"));
        }
        Ok(Secret(token.to_owned()))
    }

    /// For this node's own calls to others.
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The three tokens of a node.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    pub client: Option<Secret>,
    pub peer: Option<Secret>,
    pub admin: Option<Secret>,
}

/// Value of the header `Authorization`. Its `Debug` tells nothing.
#[derive(Clone)]
pub struct Bearer {
    /// The whole value, to hand on to the leader.
    pub header: String,
}

impl Bearer {
    fn token(&self) -> Option<&str> {
        let (scheme, token) = self.header.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    }
}

impl FromStr for Bearer {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Bearer, Self::Err> {
        Ok(Bearer { header: text.to_owned() })
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer")
    }
}

/// Marks a request (as an extension) whose connection does not come from this machine.
#[derive(Clone, Copy, Debug)]
pub struct Elsewhere;

/// What is known of a caller.
#[derive(Clone, Debug)]
pub struct Caller {
    pub bearer: Option<Bearer>,
    pub elsewhere: bool,
}

impl Tokens {
    pub fn client(&self, caller: &Caller) -> Result<(), ApiError> {
        admit(&[&self.client], caller, "client")
    }

    pub fn peer(&self, caller: &Caller) -> Result<(), ApiError> {
        admit(&[&self.peer], caller, "peer")
    }

    pub fn admin(&self, caller: &Caller) -> Result<(), ApiError> {
        admit(&[&self.admin], caller, "admin")
    }

    /// Status and metrics: of use to both.
    pub fn client_or_admin(&self, caller: &Caller) -> Result<(), ApiError> {
        admit(&[&self.client, &self.admin], caller, "client or admin")
    }
}

fn admit(accepted: &[&Option<Secret>], caller: &Caller, what: &str) -> Result<(), ApiError> {
    let open = accepted.iter().any(|secret| secret.is_none());
    if open && !caller.elsewhere {
        return Ok(());
    }
    let Some(token) = caller.bearer.as_ref().and_then(Bearer::token) else {
        let hint = if accepted.iter().all(|secret| secret.is_none()) {
            format!(
                "This node has no {what} token and serves only its own machine; start it with a token file to admit others."
            )
        } else {
            format!("Send `Authorization: Bearer <{what} token>`.")
        };
        return Err(ErrorCode::Unauthorized.error(format!("the {what} token is required"), hint));
    };
    // Every secret is compared, so that the time does not tell which one was close.
    let matches =
        accepted.iter().flat_map(|secret| secret.as_ref()).fold(false, |found, secret| secret.is(token) | found);
    if matches {
        return Ok(());
    }
    Err(ErrorCode::Unauthorized.error(
        format!("this is not the {what} token"),
        "Compare it with the token file that the node was started with.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(header: Option<&str>, elsewhere: bool) -> Caller {
        let bearer = header.map(|header| Bearer { header: header.to_owned() });
        Caller { bearer, elsewhere }
    }

    #[test]
    fn a_configured_token_is_wanted_from_everywhere() {
        let tokens = Tokens { client: Some(Secret::new("abc")), ..Tokens::default() };
        for elsewhere in [false, true] {
            assert!(tokens.client(&caller(Some("Bearer abc"), elsewhere)).is_ok());
            assert!(tokens.client(&caller(Some("bearer  abc "), elsewhere)).is_ok());
            for wrong in ["Bearer abd", "Bearer ab", "Bearer", "abc", "Basic abc", ""] {
                assert!(tokens.client(&caller(Some(wrong), elsewhere)).is_err(), "{wrong}");
            }
            assert!(tokens.client(&caller(None, elsewhere)).is_err());
        }
    }

    #[test]
    fn without_a_token_only_this_machine_is_served() {
        let tokens = Tokens::default();
        assert!(tokens.client(&caller(None, false)).is_ok());
        let refused = tokens.client(&caller(Some("Bearer x"), true)).err().map(|e| e.code);
        assert_eq!(refused, Some(ErrorCode::Unauthorized));
        assert!(tokens.admin(&caller(None, true)).is_err());
    }

    #[test]
    fn the_tokens_are_separate() {
        let tokens =
            Tokens { client: Some(Secret::new("c")), peer: Some(Secret::new("p")), admin: Some(Secret::new("a")) };
        assert!(tokens.admin(&caller(Some("Bearer c"), false)).is_err());
        assert!(tokens.peer(&caller(Some("Bearer a"), false)).is_err());
        assert!(tokens.client(&caller(Some("Bearer a"), false)).is_err());
        assert!(tokens.client_or_admin(&caller(Some("Bearer a"), false)).is_ok());
        assert!(tokens.client_or_admin(&caller(Some("Bearer p"), false)).is_err());
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let tokens = Tokens { client: Some(Secret::new("sesame")), ..Tokens::default() };
        assert!(!format!("{tokens:?} {:?}", caller(Some("Bearer sesame"), true)).contains("sesame"));
    }

    #[test]
    fn token_files_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(matches!(Secret::read(&path), Err(TokenError::Read { .. })));
        for (content, good) in [("abc\n", true), ("", false), (" \n", false), ("a b", false), ("ä", false)] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(Secret::read(&path).is_ok(), good, "{content:?}");
        }
    }
}
