//! Which of several hosts is the primary: `postgres://user:password@h1:5432,h2:5432/database`, as libpq writes it.
//!
//! What libpq calls `target_session_attrs=read-write`, and sqlx does not have: hosts are tried in order, from the one that was
//! the primary last, until one answers and takes writes. A demoted primary refuses writes (SQLSTATE 25006) and a dead one
//! does not answer; both are errors of the environment, after which a [`super::Store`] gives up its connection, so the next
//! attempt looks again. Who is the primary is Postgres' word; two that both take writes cannot be told apart from here.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

use crate::error::StoreError;

/// How long one host may take to accept a connection and say whether it takes writes.
const HOST_MAX: Duration = Duration::from_secs(3);
/// How the URL of a database begins, as libpq has it.
const SCHEMES: [&str; 2] = ["postgres", "postgresql"];
/// Values of `target_session_attrs` that mean what is done here anyway.
const SESSION_ATTRS: [&str; 2] = ["read-write", "primary"];

/// The hosts of a view's database. Clones share the knowledge of which was the primary last.
#[derive(Clone, Default)]
pub struct Primary {
    hosts: Vec<PgConnectOptions>,
    last: Arc<AtomicUsize>,
}

/// A URL that is none; holds no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoUrl {
    /// Not of the form.
    #[error("is not a postgres:// URL")]
    Form,
    /// The writer needs a server that takes writes.
    #[error("target_session_attrs must be read-write or primary, or be left out")]
    SessionAttrs,
}

impl Primary {
    /// Reads a URL with one host or more; the rest of it holds for all of them.
    pub fn parse(url: &str) -> Result<Self, NoUrl> {
        let (scheme, rest) = url.split_once("://").ok_or(NoUrl::Form)?;
        if !SCHEMES.contains(&scheme) {
            return Err(NoUrl::Form);
        }
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (login, hosts) = authority.rsplit_once('@').map_or(("", authority), |(login, hosts)| (login, hosts));
        let at = if login.is_empty() { "" } else { "@" };
        let tail = without_session_attrs(tail)?;
        let host = |host: &str| format!("{scheme}://{login}{at}{host}{tail}").parse().map_err(|_| NoUrl::Form);
        let hosts = hosts.split(',').map(host).collect::<Result<_, _>>()?;
        Ok(Self { hosts, last: Arc::default() })
    }

    /// Names the sessions for `pg_stat_activity`.
    #[must_use]
    pub fn application_name(self, name: &str) -> Self {
        self.map(|host| host.application_name(name))
    }

    /// Keeps statements out of the log.
    #[must_use]
    pub fn disable_statement_logging(self) -> Self {
        self.map(ConnectOptions::disable_statement_logging)
    }

    /// Settings of the sessions.
    #[must_use]
    pub fn options<const N: usize>(self, options: [(&str, String); N]) -> Self {
        self.map(|host| host.options(options.clone()))
    }

    /// Connects to the host that takes writes. An error names what each host said.
    pub async fn connect(&self) -> Result<PgConnection, StoreError> {
        self.connect_where(true).await
    }

    /// Connects to the first host that answers, a replica or the primary.
    pub async fn connect_for_reading(&self) -> Result<PgConnection, StoreError> {
        self.connect_where(false).await
    }

    async fn connect_where(&self, takes_writes: bool) -> Result<PgConnection, StoreError> {
        let (first, count) = (self.last.load(Ordering::Relaxed), self.hosts.len());
        let mut refusals = Vec::with_capacity(count);
        for index in (first..first + count).map(|index| index % count) {
            let host = &self.hosts[index];
            let attempt = tokio::time::timeout(HOST_MAX, connect(host, takes_writes)).await;
            match attempt.unwrap_or(Err(StoreError::TimedOut(HOST_MAX))) {
                Ok(connection) => {
                    if self.last.swap(index, Ordering::Relaxed) != index {
                        tracing::info!(host = place(host), takes_writes, "another host answers now");
                    }
                    return Ok(connection);
                }
                Err(error) if count == 1 => return Err(error),
                Err(error) => refusals.push(format!("{}: {error}", place(host))),
            }
        }
        Err(StoreError::NoPrimary(refusals.join("; ")))
    }

    fn map(self, change: impl Fn(PgConnectOptions) -> PgConnectOptions) -> Self {
        Self { hosts: self.hosts.into_iter().map(change).collect(), last: self.last }
    }
}

/// Hosts and database, never the login.
impl fmt::Debug for Primary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.hosts.iter().map(place)).finish()
    }
}

async fn connect(host: &PgConnectOptions, takes_writes: bool) -> Result<PgConnection, StoreError> {
    let mut connection = PgConnection::connect_with(host).await?;
    if !takes_writes {
        return Ok(connection);
    }
    // On for a replica, for a server with `default_transaction_read_only`, and for a login with it.
    let read_only = "select current_setting('transaction_read_only')::boolean";
    match sqlx::query_scalar(read_only).fetch_one(&mut connection).await? {
        true => Err(StoreError::ReadOnly),
        false => Ok(connection),
    }
}

fn place(host: &PgConnectOptions) -> String {
    format!("{}:{}", host.get_host(), host.get_port())
}

fn without_session_attrs(tail: &str) -> Result<String, NoUrl> {
    let Some((path, query)) = tail.split_once('?') else {
        return Ok(tail.to_owned());
    };
    let mut kept = Vec::new();
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("target_session_attrs", value)) if SESSION_ATTRS.contains(&value) => {}
            Some(("target_session_attrs", _)) => return Err(NoUrl::SessionAttrs),
            _ => kept.push(pair),
        }
    }
    Ok(if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_one_host_or_more() {
        for (url, expected) in [
            ("postgres://u:p@h/d", "[\"h:5432\"]"),
            ("postgres://u:p%40@h1:1,h2:2/d?sslmode=require", "[\"h1:1\", \"h2:2\"]"),
            ("postgresql://u@[::1]:7,h2/d?target_session_attrs=read-write", "[\"[::1]:7\", \"h2:5432\"]"),
            (
                "postgres://h1,h2,h3/d?target_session_attrs=primary&sslmode=disable",
                "[\"h1:5432\", \"h2:5432\", \"h3:5432\"]",
            ),
        ] {
            assert_eq!(format!("{:?}", Primary::parse(url).expect("valid")), expected, "{url}");
        }
        let primary = Primary::parse("postgres://u:p@h1,h2:2/d").expect("valid");
        let of_all = |get: fn(&PgConnectOptions) -> String| primary.hosts.iter().map(get).collect::<Vec<_>>();
        assert_eq!(of_all(|host| host.get_username().to_owned()), ["u", "u"]);
        assert_eq!(of_all(|host| host.get_database().unwrap_or_default().to_owned()), ["d", "d"]);
    }

    #[test]
    fn what_is_no_url_of_a_primary_is_refused_without_repeating_it() {
        for url in ["", "h/d", "postgres://u:secret@[broken/d", "postgres://u:secret@h:port/d", "http://u:secret@h/d"] {
            assert_eq!(Primary::parse(url).err(), Some(NoUrl::Form), "{url}");
        }
        let standby = "postgres://u:secret@h1,h2/d?target_session_attrs=standby";
        assert_eq!(Primary::parse(standby).err(), Some(NoUrl::SessionAttrs));
    }
}
