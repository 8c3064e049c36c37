//! The one form of an HTTP/1.1 answer that the servers under test give: a head, and a body of a length that it tells.

use anyhow::{Context, Result, bail, ensure};

/// Headers of an answer; the reader sends a dozen.
const HEADERS_MAX: usize = 64;

/// A head that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) head_bytes: usize,
    pub(super) body_bytes: usize,
}

impl Head {
    /// Reads the head at the start of these bytes; none while its end is not there.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut answer = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(head_bytes) = answer.parse(bytes).context("this is no HTTP answer")? else {
            return Ok(None);
        };
        let status = answer.code.context("an answer has a status")?;
        let header = |name: &str| answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        ensure!(header("transfer-encoding").is_none(), "the length of the body is not told beforehand");
        let length = header("content-length")
            .map(|header| std::str::from_utf8(header.value)?.trim().parse::<usize>().map_err(anyhow::Error::from));
        let body_bytes = match (status, length.transpose()?) {
            (100..=199, _) => bail!("status {status} is no answer"),
            // Never a body, whatever length is told (RFC 9110, 6.4.1).
            (204 | 304, _) => 0,
            (_, Some(length)) => length,
            (_, None) => bail!("status {status} without the length of its body"),
        };
        Ok(Some(Self { status, head_bytes, body_bytes }))
    }

    /// Bytes of head and body.
    pub(super) fn whole_bytes(&self) -> usize {
        self.head_bytes + self.body_bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However many headers surround the length, and wherever the bytes are cut.
        #[test]
        fn a_head_is_read_once_it_is_whole_and_not_before(
            status in 200_u16..600,
            before in proptest::collection::vec("[a-z]{1,12}: [ -~]{0,40}", 0..8),
            after in proptest::collection::vec("[a-z]{1,12}: [ -~]{0,40}", 0..8),
            name in prop_oneof!["content-length", "Content-Length", "CONTENT-LENGTH"],
            body in "[ -~]{0,200}",
        ) {
            let name = name.as_str();
            let length = format!("{name}: {}", body.len());
            let lines: Vec<&str> = before.iter().map(String::as_str).chain([length.as_str()]).chain(after.iter().map(String::as_str)).collect();
            let head = format!("HTTP/1.1 {status} Whatever\r\n{}\r\n\r\n", lines.join("\r\n"));
            let text = format!("{head}{body}HTTP/1.1 200 OK\r\n");
            let body_bytes = if matches!(status, 204 | 304) { 0 } else { body.len() };
            for cut in 0..text.len() {
                let expected = (cut >= head.len()).then_some(Head { status, head_bytes: head.len(), body_bytes });
                prop_assert_eq!(Head::read(&text.as_bytes()[..cut]).unwrap(), expected);
            }
        }

        #[test]
        fn odd_bytes_are_an_error_or_unfinished_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some(head)) = Head::read(&bytes) {
                prop_assert!(head.head_bytes <= bytes.len());
            }
        }
    }

    #[test]
    fn what_cannot_be_delimited_is_an_error() {
        for bad in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n\r\n",
        ] {
            assert!(Head::read(bad.as_bytes()).is_err(), "{bad}");
        }
        let none = Head::read(b"HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n").unwrap();
        assert_eq!(none.map(|head| head.body_bytes), Some(0));
    }
}
