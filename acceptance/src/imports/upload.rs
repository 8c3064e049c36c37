//! Uploads, written by hand: in part, to a service that dies, and again with their key.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use devstack::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::DEADLINE;

/// Until one upload must be answered, whatever the answer.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// A file on its way, under one key.
#[derive(Debug, Clone)]
pub struct Upload {
    target: String,
    key: String,
    text: String,
}

/// What jobs says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Of HTTP.
    pub status: u16,
    /// The import's id, if there is one.
    pub import: Option<String>,
}

impl Upload {
    /// Of a file into a channel, for an owner.
    pub fn new(channel: &str, owner: &str, key: &str, text: String) -> Self {
        let target = format!("/v1/imports?channel_id={channel}&owner_id={owner}");
        Self { target, key: key.to_owned(), text }
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Says that the whole file comes, and sends so many bytes of it.
    pub async fn begin(&self, address: &str, bytes: usize) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(address).await?;
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: text/csv\r\n\
             idempotency-key: {}\r\ncontent-length: {}\r\n\r\n",
            self.target,
            self.key,
            self.text.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&self.text.as_bytes()[..bytes]).await?;
        Ok(stream)
    }

    /// Sends it whole and reads the answer.
    pub async fn send(&self, address: &str) -> Result<Answer> {
        let whole = async {
            let mut stream = self.begin(address, self.text.len()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            parse(&String::from_utf8(answer)?)
        };
        tokio::time::timeout(ANSWER_MAX, whole).await.context("an answer")?
    }

    /// Sends it until it is accepted, as the page does: again after whatever may pass, and with its key. Gives the import's id.
    pub async fn accepted(&self, address: &str) -> Result<String> {
        let attempt = async || {
            match self.send(address).await {
                Ok(Answer { status: 202, import: Some(import) }) => Some(Ok(import)),
                // Under way elsewhere, starting, or gone in mid-upload.
                Ok(Answer { status: 409 | 503, .. }) | Err(_) => None,
                Ok(answer) => Some(Err(answer)),
            }
        };
        match eventually("the upload is accepted", DEADLINE, attempt).await? {
            Ok(import) => Ok(import),
            Err(answer) => bail!("{answer:?}"),
        }
    }
}

fn parse(text: &str) -> Result<Answer> {
    let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).context("a status")?;
    let location = text.lines().find_map(|line| line.strip_prefix("location: "));
    let import = location.and_then(|path| path.rsplit('/').next()).map(str::to_owned);
    ensure!(status != "202" || import.is_some(), "202 without a location");
    Ok(Answer { status: status.parse()?, import })
}
