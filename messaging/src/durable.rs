//! The producer for what must not be lost and should not stand twice: dead letters, retries, states and commands.

use rdkafka::{error::KafkaResult, producer::FutureProducer};

use crate::settings::{Settings, client};

/// Names and meaning: librdkafka, CONFIGURATION.md.
const OWN: [(&str, &str); 7] = [
    // With `acks=all`, which it implies: what is retried on the way stands once.
    ("enable.idempotence", "true"),
    // The client never gives a record up while the broker may have it: it would have to be sent anew, and stand twice.
    // Who waits is bounded elsewhere, and comes back for the answer.
    ("message.timeout.ms", "0"),
    // A refusal for size is about one record, not about those that happened to share its request.
    ("batch.num.messages", "1"),
    ("linger.ms", "0"),
    // The broker decides what is too large (the client's own limit is 1 MB by default, and this at most).
    ("message.max.bytes", "1000000000"),
    // A source whose large records are compressed gives records of the same kind.
    ("compression.type", "zstd"),
    // A deleted topic is noticed within this time; default 30 s.
    ("topic.metadata.propagation.max.ms", "5000"),
];

/// Makes the producer.
pub(crate) fn producer(settings: &Settings, client_id: &str) -> KafkaResult<FutureProducer> {
    client(settings, &OWN).set("client.id", client_id).create()
}
