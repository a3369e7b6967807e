//! This node's token files, read again while it runs: a secret that is mounted into a container changes in place.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::args::Args;
use crate::http::token::TokenError;
use crate::http::{Secret, Token, Tokens};

/// How long the secret before the newest one is accepted beside it. The machines of a cluster see a changed secret within two
/// minutes of each other (a kubelet looks every minute, and at what it remembers for another); this is twice that and a margin
/// for clients that have to be told.
pub const GRACE_MICROS: u64 = 5 * 60 * 1_000_000;

/// A file and the token in it.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    token: Token,
    /// It could not be read the last time.
    failing: AtomicBool,
}

impl TokenFile {
    fn read(path: &Path) -> Result<TokenFile, TokenError> {
        Ok(TokenFile { path: path.to_owned(), token: Token::new(Secret::read(path)?), failing: AtomicBool::new(false) })
    }

    /// All secrets that may be right elsewhere, the newest first.
    pub fn secrets(&self) -> Vec<Secret> {
        self.token.secrets()
    }

    /// Takes up a changed file. One that cannot be read, or holds no token, changes nothing: it may be about to be replaced.
    fn refresh(&self, now: u64) {
        self.token.expire(now);
        let read = Secret::read(&self.path);
        let failed_before = self.failing.swap(read.is_err(), Ordering::Relaxed);
        match read {
            Ok(secret) => {
                if self.token.take_up(secret, now, GRACE_MICROS) {
                    tracing::info!(path = %self.path.display(), "the token was replaced");
                }
            }
            Err(_) if failed_before => {}
            Err(error) => tracing::warn!(%error, "the token stays as it was"),
        }
    }
}

/// The tokens that this node checks or shows.
#[derive(Debug)]
pub struct TokenFiles {
    pub client: Option<TokenFile>,
    pub peer: TokenFile,
    pub admin: TokenFile,
}

impl TokenFiles {
    pub(super) fn read(args: &Args) -> Result<TokenFiles, TokenError> {
        Ok(TokenFiles {
            client: args.client_token_file.as_deref().map(TokenFile::read).transpose()?,
            peer: TokenFile::read(&args.peer_token_file)?,
            admin: TokenFile::read(&args.admin_token_file)?,
        })
    }

    /// Looks whether a file has changed; `now` counts microseconds.
    pub(super) fn refresh(&self, now: u64) {
        for file in self.client.iter().chain([&self.peer, &self.admin]) {
            file.refresh(now);
        }
    }

    /// What the server checks: changes with the files.
    pub fn tokens(&self) -> Tokens {
        Tokens {
            client: self.client.as_ref().map(|file| file.token.clone()),
            peer: Some(self.peer.token.clone()),
            admin: Some(self.admin.token.clone()),
        }
    }
}
