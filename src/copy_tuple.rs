//! The binary COPY format: tuples for `usage_events`, and the stream around them. Pure; tuples are
//! written by the decoder threads, streams are put together by the writer threads.
//!
//! Format: PostgreSQL documentation, COPY, "Binary Format". A tuple is a 16-bit field count, then
//! per field a 32-bit length and the value in the type's binary send format, all big-endian.

use crate::usage_event::UsageEvent;

/// The columns of a tuple, in its order. `created_at` is left to its default.
pub const COLUMNS: &str = "time, request_id, organization_id, api_key_id, endpoint, method, \
     status_code, response_time_ms, billable, weight";

/// How many there are.
const COLUMN_COUNT: u16 = 10;

/// Each field's length.
const LENGTH_BYTES: usize = 4;

/// Signature, no flags, no header extension.
const STREAM_HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// The field count -1 ends the stream.
const STREAM_TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// 1970-01-01 to 2000-01-01, PostgreSQL's epoch, in microseconds.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Appends `event` as one tuple:
/// `i16 10`, then `time` i64 (microseconds since 2000), `request_id` text, two UUIDs of 16 bytes,
/// `endpoint` text, `method` text, `status_code` i32, `response_time_ms` i32, `billable` one byte,
/// `weight` i32, each behind its i32 length.
pub fn append_tuple(out: &mut Vec<u8>, event: &UsageEvent<'_>) {
    const FIXED_BYTES: usize = 2 + 10 * LENGTH_BYTES + 8 + 16 + 16 + 4 + 4 + 1 + 4;
    let [request_id, endpoint, method] = [event.request_id, event.endpoint, event.method].map(str::as_bytes);
    out.reserve(FIXED_BYTES + request_id.len() + endpoint.len() + method.len());
    out.extend_from_slice(&COLUMN_COUNT.to_be_bytes());
    append_field(out, &event.time_micros.saturating_sub(POSTGRES_EPOCH_MICROS).to_be_bytes());
    append_field(out, request_id);
    append_field(out, &event.organization_id.to_be_bytes());
    append_field(out, &event.api_key_id.to_be_bytes());
    append_field(out, endpoint);
    append_field(out, method);
    append_field(out, &event.status_code.to_be_bytes());
    append_field(out, &event.response_time_ms.to_be_bytes());
    append_field(out, &[u8::from(event.billable)]);
    append_field(out, &event.weight.to_be_bytes());
}

/// Values are validated to a few hundred bytes, so a length always fits.
fn append_field(out: &mut Vec<u8>, value: &[u8]) {
    let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(value);
}

/// A whole COPY stream under construction; its buffer is kept from one batch to the next.
#[derive(Debug, Default)]
pub struct CopyStream {
    bytes: Vec<u8>,
}

impl CopyStream {
    /// Begins a new stream.
    pub fn start(&mut self) {
        self.bytes.clear();
        self.bytes.extend_from_slice(STREAM_HEADER);
    }

    /// Appends a tuple as [`append_tuple`] made it.
    pub fn push(&mut self, tuple: &[u8]) {
        self.bytes.extend_from_slice(tuple);
    }

    /// Appends a tuple with one more column behind the others: `number`, an i32.
    pub fn push_numbered(&mut self, tuple: &[u8], number: u32) {
        self.bytes.extend_from_slice(&(COLUMN_COUNT + 1).to_be_bytes());
        self.bytes.extend_from_slice(&tuple[size_of_val(&COLUMN_COUNT)..]);
        append_field(&mut self.bytes, &number.to_be_bytes());
    }

    /// Ends the stream and gives its bytes.
    pub fn finish(&mut self) -> &[u8] {
        self.bytes.extend_from_slice(&STREAM_TRAILER);
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Splits a stream into tuples of fields, by the format's description alone.
    fn parse(mut bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
        fn take<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
            let (head, tail) = bytes.split_at(len);
            *bytes = tail;
            head
        }
        assert_eq!(take(&mut bytes, 11), b"PGCOPY\n\xff\r\n\0");
        assert_eq!(take(&mut bytes, 8), [0; 8]);
        let mut tuples = Vec::new();
        loop {
            let count = i16::from_be_bytes(take(&mut bytes, 2).try_into().unwrap());
            if count == -1 {
                assert!(bytes.is_empty());
                return tuples;
            }
            tuples.push(
                (0..count)
                    .map(|_| {
                        let len = u32::from_be_bytes(take(&mut bytes, 4).try_into().unwrap());
                        take(&mut bytes, len as usize).to_vec()
                    })
                    .collect(),
            );
        }
    }

    proptest! {
        #[test]
        fn every_field_can_be_read_back(
            time_micros in -62_135_596_800_000_000_i64..253_402_300_800_000_000,
            strings in (".{1,128}", ".{1,255}", ".{1,10}"),
            ids: (u128, u128),
            numbers in (100_i32..600, 0_i32.., 0_i32..),
            billable: bool,
            seq: u32,
        ) {
            let event = UsageEvent {
                time_micros, request_id: &strings.0, organization_id: ids.0, api_key_id: ids.1,
                endpoint: &strings.1, method: &strings.2, status_code: numbers.0,
                response_time_ms: numbers.1, billable, weight: numbers.2,
            };
            let mut tuple = Vec::new();
            append_tuple(&mut tuple, &event);
            let mut stream = CopyStream::default();
            stream.start();
            stream.push(&tuple);
            stream.push_numbered(&tuple, seq);
            let tuples = parse(stream.finish());
            let expected = [
                (time_micros - 946_684_800_000_000).to_be_bytes().to_vec(),
                strings.0.as_bytes().to_vec(), ids.0.to_be_bytes().to_vec(), ids.1.to_be_bytes().to_vec(),
                strings.1.as_bytes().to_vec(), strings.2.as_bytes().to_vec(), numbers.0.to_be_bytes().to_vec(),
                numbers.1.to_be_bytes().to_vec(), vec![u8::from(billable)], numbers.2.to_be_bytes().to_vec(),
            ];
            prop_assert_eq!(&tuples[0][..], &expected[..]);
            prop_assert_eq!(&tuples[1][..10], &expected[..]);
            prop_assert_eq!(&tuples[1][10], &seq.to_be_bytes().to_vec());
        }
    }
}
