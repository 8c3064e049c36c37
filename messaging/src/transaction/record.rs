//! Records as handlers get them, and as they return them.

use std::sync::Arc;

use bytes::Bytes;
use rdkafka::{
    Message,
    message::{BorrowedMessage, Headers as _, OwnedHeaders},
};

/// A record of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers, in order.
    pub headers: Vec<Header>,
    /// Milliseconds since 1970, as producer or broker set them; orders nothing.
    pub timestamp_ms: Option<i64>,
}

/// A header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub key: String,
    /// Its bytes.
    pub value: Option<Bytes>,
}

impl Record {
    pub(super) fn of(message: &BorrowedMessage<'_>, topic: Arc<str>) -> Self {
        let owned = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        let headers = message.headers().map(|headers| {
            let header = |header: rdkafka::message::Header<'_, &[u8]>| Header {
                key: header.key.to_owned(),
                value: header.value.map(owned),
            };
            headers.iter().map(header).collect()
        });
        Self {
            topic,
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(owned),
            value: message.payload().map(owned),
            headers: headers.unwrap_or_default(),
            timestamp_ms: message.timestamp().to_millis(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// A record to produce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where to.
    pub topic: String,
    /// Which partition; `None` lets the key decide.
    pub partition: Option<i32>,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers, in order.
    pub headers: Vec<Header>,
}

impl Output {
    /// With a key and a value, and nothing else.
    pub fn new(topic: &str, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        let (topic, key, value) = (topic.to_owned(), Some(key.into()), Some(value.into()));
        Self { topic, partition: None, key, value, headers: Vec::new() }
    }

    /// Adds a header.
    pub fn header(mut self, key: &str, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header { key: key.to_owned(), value: Some(value.into()) });
        self
    }

    pub(super) fn owned_headers(&self) -> Option<OwnedHeaders> {
        let add = |headers: OwnedHeaders, header: &Header| {
            headers.insert(rdkafka::message::Header { key: &header.key, value: header.value.as_deref() })
        };
        (!self.headers.is_empty()).then(|| self.headers.iter().fold(OwnedHeaders::new(), add))
    }
}

/// A partition of one of several topics.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TopicPartition {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
}
