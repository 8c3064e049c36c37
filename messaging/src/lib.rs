//! Kafka patterns as a library: consumers that retry, block and bury, stores on compacted topics, transactions.
