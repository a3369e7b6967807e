//! Bearer tokens: secrets from files, compared in constant time and never logged; replaced while the node runs.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
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

    /// In a time that does not tell how much of it is right.
    pub fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A token that may be replaced: the newest secret, and for a while the one before it, because others learn of the change
/// earlier or later.
#[derive(Clone, Debug)]
pub struct Token(Arc<RwLock<Accepted>>);

#[derive(Debug)]
struct Accepted {
    newest: Secret,
    /// With the time when it ends, on the caller's clock.
    previous: Option<(Secret, u64)>,
}

impl Token {
    pub fn new(secret: Secret) -> Token {
        Token(Arc::new(RwLock::new(Accepted { newest: secret, previous: None })))
    }

    /// Is this the newest secret, or the one before it?
    pub(super) fn is(&self, given: &str) -> bool {
        let accepted = self.0.read();
        // Both are compared, so that the time does not tell which one was close.
        let newest = accepted.newest.is(given);
        accepted.previous.as_ref().is_some_and(|(previous, _)| previous.is(given)) | newest
    }

    /// All secrets that may be right elsewhere, the newest first.
    pub fn secrets(&self) -> Vec<Secret> {
        let accepted = self.0.read();
        let previous = accepted.previous.iter().map(|(secret, _)| secret.clone());
        std::iter::once(accepted.newest.clone()).chain(previous).collect()
    }

    /// Takes up what the file holds at the time `now`; true when it is new. The one before is accepted for `grace` longer, in
    /// the unit of `now`.
    pub fn take_up(&self, secret: Secret, now: u64, grace: u64) -> bool {
        let same = self.0.read().newest.is(secret.expose());
        if !same {
            let mut accepted = self.0.write();
            let before = std::mem::replace(&mut accepted.newest, secret);
            accepted.previous = Some((before, now + grace));
        }
        !same
    }

    /// Forgets the secret before the newest when its time is over.
    pub fn expire(&self, now: u64) {
        let over = self.0.read().previous.as_ref().is_some_and(|(_, end)| now >= *end);
        if over {
            self.0.write().previous = None;
        }
    }
}

impl From<Secret> for Token {
    fn from(secret: Secret) -> Token {
        Token::new(secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn the_secret_before_is_accepted_until_its_time_is_over() {
        let token = Token::new(Secret::new("one"));
        assert!(!token.take_up(Secret::new("one"), 100, 50));
        assert!(token.take_up(Secret::new("two"), 100, 50));
        assert!(!token.take_up(Secret::new("two"), 120, 50), "the same again does not make it longer");
        token.expire(149);
        assert!(token.is("one") && token.is("two") && !token.is("three"));
        let shown: Vec<_> = token.secrets().iter().map(|secret| secret.expose().to_owned()).collect();
        assert_eq!(shown, ["two", "one"]);
        token.expire(150);
        assert!(!token.is("one") && token.is("two"));
        assert!(token.take_up(Secret::new("three"), 200, 50) && token.take_up(Secret::new("four"), 201, 50));
        assert!(!token.is("two"), "only one is kept");
    }
}
