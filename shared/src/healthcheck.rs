//! `healthcheck`, a verb of every service: its container asks the process in it, with neither shell nor HTTP client in the image.
//!
//! It asks the admin port that the same flags and environment set. `/livez` by default, because orchestrators restart what
//! is unhealthy, and a restart heals no absent database; with `--ready` it asks `/readyz`, for those who wait for a start.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// Each of connecting, asking and answering may take so long; the timeout of a container's health check is the outer bound.
const STEP_MAX: Duration = Duration::from_secs(2);
/// An answer of the admin port is far smaller; whoever else may listen there is not read for ever.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct HealthcheckArgs {
    /// Ask /readyz instead of /livez: healthy only while every condition holds
    #[arg(long)]
    ready: bool,
}

impl HealthcheckArgs {
    /// Asks the process that listens on `admin_listen`; prints its answer. Exit code 0 when it is a 200, else 1.
    #[expect(clippy::print_stdout, clippy::print_stderr, reason = "a verb answers on standard output")]
    pub fn run(self, admin_listen: SocketAddr) -> ExitCode {
        match self.ask(admin_listen) {
            Ok((200, answer)) => {
                println!("{answer}");
                ExitCode::SUCCESS
            }
            Ok((status, answer)) => {
                eprintln!("{status} {answer}");
                ExitCode::FAILURE
            }
            Err(error) => {
                eprintln!("{admin_listen}: {error}");
                ExitCode::FAILURE
            }
        }
    }

    /// Status and body of the answer.
    fn ask(self, admin_listen: SocketAddr) -> std::io::Result<(u16, String)> {
        let path = if self.ready { "/readyz" } else { "/livez" };
        let mut stream = TcpStream::connect_timeout(&reachable(admin_listen), STEP_MAX)?;
        stream.set_read_timeout(Some(STEP_MAX))?;
        stream.set_write_timeout(Some(STEP_MAX))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {admin_listen}\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
        let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned());
        status.zip(body).ok_or_else(|| std::io::Error::other("what listens there does not speak HTTP/1.1"))
    }
}

/// A process that listens on every address is asked on the loopback one.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{Readiness, router};
    use metrics_exporter_prometheus::PrometheusBuilder;

    #[test]
    fn every_address_is_asked_on_the_loopback_one() {
        for (listen, asked) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.7:1", "10.0.0.7:1"), ("[::1]:1", "[::1]:1")]
        {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn live_before_ready_and_neither_when_nobody_listens() {
        let readiness = Readiness::new();
        let condition = readiness.condition("database");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let server = tokio::spawn(axum::serve(listener, router(readiness, metrics)).into_future());
        let ask = async |ready| {
            let asking = tokio::task::spawn_blocking(move || HealthcheckArgs { ready }.ask(address));
            asking.await.unwrap()
        };
        assert_eq!(ask(false).await.unwrap(), (200, "alive".to_owned()));
        let (status, report) = ask(true).await.unwrap();
        assert!(status == 503 && report.contains("\"database\""), "{status} {report}");
        condition.set(true, "up");
        assert_eq!(ask(true).await.unwrap().0, 200);
        server.abort();
        let _ = server.await;
        assert!(ask(false).await.is_err());
    }
}
