//! Who may call what: three bearer [tokens](super::token), for clients, peers and the operator.
//!
//! A token that is not configured admits callers from loopback only: on the same machine whoever may connect could read the
//! files as well, and from elsewhere nobody is to get in by mistake.

use std::fmt;
use std::str::FromStr;

use rdb_protocol::api::{ApiError, ErrorCode};

use super::token::Token;

/// The three tokens of a node.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    pub client: Option<Token>,
    pub peer: Option<Token>,
    pub admin: Option<Token>,
}

/// Value of the header `Authorization`. Its `Debug` tells nothing.
#[derive(Clone)]
pub struct Bearer {
    /// The whole value, to hand on to the leader.
    pub header: String,
}

impl Bearer {
    pub fn token(&self) -> Option<&str> {
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

fn admit(accepted: &[&Option<Token>], caller: &Caller, what: &str) -> Result<(), ApiError> {
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
    let matches = accepted.iter().flat_map(|known| known.as_ref()).fold(false, |found, known| known.is(token) | found);
    if matches {
        return Ok(());
    }
    Err(ErrorCode::Unauthorized
        .error(format!("this is not the {what} token"), "Compare it with the node's token file."))
}

#[cfg(test)]
mod tests {
    use super::super::token::Secret;
    use super::*;

    fn known(token: &str) -> Option<Token> {
        Some(Token::new(Secret::new(token)))
    }

    fn caller(header: Option<&str>, elsewhere: bool) -> Caller {
        let bearer = header.map(|header| Bearer { header: header.to_owned() });
        Caller { bearer, elsewhere }
    }

    #[test]
    fn a_configured_token_is_wanted_from_everywhere() {
        let tokens = Tokens { client: known("abc"), ..Tokens::default() };
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
        let tokens = Tokens { client: known("c"), peer: known("p"), admin: known("a") };
        assert!(tokens.admin(&caller(Some("Bearer c"), false)).is_err());
        assert!(tokens.peer(&caller(Some("Bearer a"), false)).is_err());
        assert!(tokens.client(&caller(Some("Bearer a"), false)).is_err());
        assert!(tokens.client_or_admin(&caller(Some("Bearer a"), false)).is_ok());
        assert!(tokens.client_or_admin(&caller(Some("Bearer p"), false)).is_err());
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let tokens = Tokens { client: known("sesame"), ..Tokens::default() };
        assert!(!format!("{tokens:?} {:?}", caller(Some("Bearer sesame"), true)).contains("sesame"));
    }
}
