//! What makes two messages copies of one event: a keyed hash of the identity, and a fingerprint of
//! what a copy must repeat. Pure; computed once a message, on the decoder threads.

use std::hash::Hasher;

use rand::TryRngCore;
use rand::rand_core::OsError;
use rand::rngs::OsRng;
use siphasher::sip128::Hasher128;
use siphasher::{sip, sip128};

use crate::usage_event::UsageEvent;

/// A random key per process: request ids come from clients, who must not be able to construct
/// colliding ones. So the hash is SipHash, whose authors claim a pseudorandom function of the key, with the rounds of
/// Rust's and Python's maps; those that are faster on 50 bytes promise less against whoever chooses the input.
#[derive(Debug, Clone)]
pub struct IdentityHasher {
    identity: sip128::SipHasher13,
    fingerprint: sip::SipHasher13,
}

/// An event as the window sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Keyed 128-bit hash of organization and request id. Of 10 million live identities two
    /// collide with a probability of 1.5e-25.
    pub hash: u128,
    /// Hash of what a retry must repeat: api key, endpoint, method, billable, weight.
    pub fingerprint: u32,
}

impl IdentityHasher {
    /// A hasher that no client can foresee.
    pub fn with_random_key() -> Result<Self, OsError> {
        let mut key = [0; 16];
        OsRng.try_fill_bytes(&mut key)?;
        Ok(Self::new(key))
    }

    /// A hasher with this key.
    pub fn new(key: [u8; 16]) -> Self {
        Self {
            identity: sip128::SipHasher13::new_with_key(&key),
            fingerprint: sip::SipHasher13::new_with_key(&key),
        }
    }

    /// Hashes an event once, for the window's table and for the comparison of payloads.
    pub fn identify(&self, event: &UsageEvent<'_>) -> Identity {
        let mut identity = self.identity;
        write_u128(&mut identity, event.organization_id);
        identity.write(event.request_id.as_bytes());
        let mut payload = self.fingerprint;
        write_u128(&mut payload, event.api_key_id);
        payload.write_i32(event.weight);
        // The length keeps method and endpoint apart.
        payload.write_usize(event.method.len() * 2 + usize::from(event.billable));
        payload.write(event.method.as_bytes());
        payload.write(event.endpoint.as_bytes());
        let [a, b, c, d, ..] = payload.finish().to_le_bytes();
        Identity { hash: identity.finish128().as_u128(), fingerprint: u32::from_le_bytes([a, b, c, d]) }
    }
}

/// In words, for which SipHash has a short way.
fn write_u128(hasher: &mut impl Hasher, value: u128) {
    let [low, high] = [value, value >> 64].map(low_64_bits);
    hasher.write_u64(low);
    hasher.write_u64(high);
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
fn low_64_bits(value: u128) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: UsageEvent<'static> = UsageEvent {
        time_micros: 1,
        request_id: "r-1",
        organization_id: 7,
        api_key_id: 8,
        endpoint: "/v1",
        method: "GET",
        status_code: 200,
        response_time_ms: 3,
        billable: true,
        weight: 1,
    };

    #[test]
    fn organization_and_request_id_make_the_identity_and_the_billed_fields_the_fingerprint() {
        let hasher = IdentityHasher::new([1; 16]);
        let original = hasher.identify(&EVENT);
        let retry = UsageEvent { time_micros: 2, status_code: 500, response_time_ms: 9, ..EVENT };
        assert_eq!(hasher.identify(&retry), original);
        for other in [UsageEvent { request_id: "r-2", ..EVENT }, UsageEvent { organization_id: 9, ..EVENT }] {
            assert_ne!(hasher.identify(&other).hash, original.hash);
        }
        for conflicting in [
            UsageEvent { api_key_id: 9, ..EVENT },
            UsageEvent { endpoint: "/v2", ..EVENT },
            UsageEvent { method: "PUT", ..EVENT },
            UsageEvent { billable: false, ..EVENT },
            UsageEvent { weight: 2, ..EVENT },
        ] {
            let conflicting = hasher.identify(&conflicting);
            assert_eq!(conflicting.hash, original.hash);
            assert_ne!(conflicting.fingerprint, original.fingerprint);
        }
        assert_ne!(IdentityHasher::new([2; 16]).identify(&EVENT).hash, original.hash);
    }
}
