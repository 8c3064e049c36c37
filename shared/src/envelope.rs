//! The forms in which a Debezium topic carries a row, told apart record by record.
//!
//! Four value forms occur, in any mixture: the change envelope with its schema (`{"schema":…,"payload":{…}}`), the plain
//! envelope (`{"before","after","source","op",…}`), the row flattened by the `ExtractNewRecordState` transformation (with
//! `__op`, `__deleted`, `__lsn`, … as members or as record headers), and the tombstone (no value, or a null payload).
//!
//! Everything is borrowed from the record: a row is a slice of its JSON text, `before` and the schema are passed over and
//! never built, and a schema that stood in the record before is not even read. What a row means is not known here; a projection asks for the members it wants by [`Pointer`].
//!
//! Sources: Debezium's reference for the PostgreSQL and MySQL connectors (events, `unavailable.value.placeholder`) and for
//! the transformation "New Record State Extraction".

mod key;
mod position;
mod record;
mod row;
mod schema_head;

pub use key::{KeyError, key_id};
pub use position::{ParsePositionError, SourcePosition};
pub use record::{Envelope, EnvelopeError, Headers, OLD_KEY_HEADER, Operation};
pub use row::{Column, Pointer, PointerError, scalar_text, select};
pub use schema_head::SchemaHead;
