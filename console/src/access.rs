//! Who may do what: bearer tokens with roles, and the sessions of browsers that signed in with one.
//!
//! The file holds the SHA-256 of each token and not the token (`console token` makes both), so that who reads the file cannot
//! act. It is read at start and again when it changes (`reload`); what is not in it any more is worth nothing from then on, and so are
//! the sessions that began with it. Without a file everybody who reaches the console is an admin, and it listens on loopback only.

mod reload;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shared::config::Invalid;
use tokio::sync::watch;

pub(crate) use reload::follow;

const VARIABLE: &str = "CONSOLE_TOKENS_FILE";
/// A browser signs in again after so long.
pub const SESSION_AGE_MAX: Duration = Duration::from_secs(12 * 3600);
/// Sessions at once; the oldest makes room.
const SESSIONS_MAX: usize = 256;

/// What a caller may do; each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// See everything.
    View,
    /// Skip, unblock, unpark, pause, resume, redrive.
    Operate,
    /// Also what gives up records that nobody has looked at, ignore from here on; a redrive beyond the loop guard; and to say
    /// what a record is to hold, by editing a letter.
    Admin,
}

impl Role {
    /// As it is written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

/// Somebody whose token is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// As the file names them; stands in every audit.
    pub name: String,
    /// What they may do.
    pub role: Role,
}

type Digest = [u8; 32];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    token: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    role: Role,
    sha256: String,
}

/// The tokens of a console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens(Vec<(Digest, Caller)>);

impl Tokens {
    /// Reads the file; names what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, Invalid> {
        let invalid = |why: String| Invalid::new(VARIABLE, format!("{}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| invalid(error.to_string()))?;
        Self::parse(&text).map_err(invalid)
    }

    fn parse(text: &str) -> Result<Self, String> {
        // The error's own text would quote the line.
        let file: File = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        let mut tokens = Vec::new();
        for entry in file.token {
            if entry.name.trim().is_empty() {
                return Err("a token has no name".to_owned());
            }
            let digest =
                unhex(&entry.sha256).ok_or_else(|| format!("sha256 of {} is not 64 hex digits", entry.name))?;
            tokens.push((digest, Caller { name: entry.name, role: entry.role }));
        }
        if tokens.is_empty() { Err("holds no [[token]]".to_owned()) } else { Ok(Self(tokens)) }
    }

    fn find(&self, digest: &Digest) -> Option<&Caller> {
        // All are looked at, each byte of them: how long it takes tells nothing.
        let differs = |known: &Digest| known.iter().zip(digest).fold(0, |differs, (a, b)| differs | (a ^ b)) != 0;
        self.0.iter().filter(|(known, _)| !differs(known)).map(|(_, caller)| caller).next_back()
    }
}

/// Decides who a caller is.
#[derive(Debug)]
pub struct Access {
    /// `None`: everybody on this machine.
    tokens: Option<RwLock<Tokens>>,
    /// The token that each began with, and when.
    sessions: Mutex<HashMap<Digest, (Digest, Instant)>>,
    /// Changes when other tokens count.
    replaced: watch::Sender<()>,
}

impl Access {
    /// With tokens, or open to those who reach a loopback address.
    pub fn new(tokens: Option<Tokens>) -> Self {
        Self { tokens: tokens.map(RwLock::new), sessions: Mutex::default(), replaced: watch::Sender::default() }
    }

    /// Who everybody is when there are no tokens.
    pub fn everybody(&self) -> Option<Caller> {
        self.tokens.is_none().then(|| Caller { name: "somebody on this machine".to_owned(), role: Role::Admin })
    }

    /// Whose token this is.
    pub fn by_token(&self, token: &str) -> Option<Caller> {
        self.by_digest(&digest(token))
    }

    /// Whose session this is, with the role that they have now.
    pub fn by_session(&self, id: &str) -> Option<Caller> {
        let mut sessions = self.sessions();
        sessions.retain(|_, (_, begun)| begun.elapsed() < SESSION_AGE_MAX);
        let (token, _) = sessions.get(&digest(id))?;
        self.by_digest(token)
    }

    /// Begins a session for who has this token; gives its id, which only the browser keeps.
    pub fn begin_session(&self, token: &str) -> Option<(Caller, String)> {
        let (caller, id) = (self.by_token(token)?, secret());
        let mut sessions = self.sessions();
        if sessions.len() >= SESSIONS_MAX
            && let Some(oldest) = sessions.iter().min_by_key(|(_, (_, begun))| *begun).map(|(digest, _)| *digest)
        {
            sessions.remove(&oldest);
        }
        sessions.insert(digest(&id), (digest(token), Instant::now()));
        Some((caller, id))
    }

    /// Changes when other tokens count: who looks on has to ask anew.
    pub(crate) fn replaced(&self) -> watch::Receiver<()> {
        self.replaced.subscribe()
    }

    /// From now on these count; false when they are those that count already. Nothing becomes of an access without tokens.
    fn replace(&self, tokens: Tokens) -> bool {
        let Some(now) = &self.tokens else { return false };
        let mut now = now.write().unwrap_or_else(PoisonError::into_inner);
        if *now == tokens {
            return false;
        }
        *now = tokens;
        drop(now);
        self.replaced.send_replace(());
        true
    }

    fn by_digest(&self, token: &Digest) -> Option<Caller> {
        self.tokens.as_ref()?.read().unwrap_or_else(PoisonError::into_inner).find(token).cloned()
    }

    /// Ends a session.
    pub fn end_session(&self, id: &str) {
        self.sessions().remove(&digest(id));
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Digest, (Digest, Instant)>> {
        // Each change is one insertion or removal, so a panic elsewhere leaves the map whole.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 256 random bits as text.
pub fn secret() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// The lines of the file for a token.
pub fn entry(name: &str, role: Role, token: &str) -> String {
    let sha256: String = digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("[[token]]\nname = {name:?}\nrole = \"{}\"\nsha256 = \"{sha256}\"\n", role.as_str())
}

fn digest(text: &str) -> Digest {
    Sha256::digest(text).into()
}

fn unhex(text: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_hash() {
        let text = [entry("ann", Role::Operate, "s3cret"), entry("bob", Role::View, "other")].concat();
        assert!(!text.contains("s3cret"));
        let access = Access::new(Some(Tokens::parse(&text).unwrap()));
        assert_eq!(access.by_token("s3cret"), Some(Caller { name: "ann".to_owned(), role: Role::Operate }));
        assert_eq!(access.by_token("s3cre"), None);
        assert_eq!(access.everybody(), None);
        assert_eq!(Access::new(None).by_token("s3cret"), None);
    }

    #[test]
    fn a_session_ends_when_it_is_ended_or_makes_room() {
        let access = Access::new(Some(Tokens::parse(&entry("ann", Role::View, "s3cret")).unwrap()));
        let begin = || access.begin_session("s3cret").unwrap().1;
        let first = begin();
        assert_eq!(access.by_session(&first), access.by_token("s3cret"));
        let others: Vec<_> = (0..SESSIONS_MAX).map(|_| begin()).collect();
        assert_eq!(access.by_session(&first), None, "the oldest made room");
        access.end_session(&others[9]);
        assert_eq!(access.by_session(&others[9]), None);
        assert!(access.by_session(&others[8]).is_some() && access.by_session("x").is_none());
        assert!(access.begin_session("other").is_none());
    }

    #[test]
    fn a_file_that_lets_nobody_or_anybody_in_is_refused() {
        let good = entry("ann", Role::Admin, "x");
        for text in
            ["", "token = []", &good.replace("ann", " "), &good.replace("admin", "root"), &good[..good.len() - 5]]
        {
            assert!(Tokens::parse(text).is_err(), "{text}");
        }
    }
}
