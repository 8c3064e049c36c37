-- How a partition stands while `blocked_offset` is set, and which topic its position belongs to.
alter table position
    add column blocked_state text check (blocked_state in ('blocked', 'braked', 'out-of-range', 'topic-changed')),
    -- Kafka's topic id (KIP-516): a topic deleted and made anew under its old name has another one.
    add column topic_id      text;
