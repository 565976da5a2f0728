//! What makes two messages copies of one event: a keyed hash of the identity, and a fingerprint of
//! what a copy must repeat. Pure; computed once a message, on the decoder threads.

use rand::TryRngCore;
use rand::rand_core::OsError;
use rand::rngs::OsRng;
use siphasher::sip128::SipHasher13;

use crate::usage_event::UsageEvent;

/// A random key per process: request ids come from clients, who must not be able to construct
/// colliding ones. So the hash is SipHash, whose authors claim a pseudorandom function of the key, with the rounds of
/// Rust's and Python's maps; those that are faster on 50 bytes promise less to whoever chooses the input.
#[derive(Debug, Clone)]
pub struct IdentityHasher {
    hasher: SipHasher13,
    /// What is hashed, in one piece: in pieces it takes twice as long.
    scratch: Vec<u8>,
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
        Self { hasher: SipHasher13::new_with_key(&key), scratch: Vec::new() }
    }

    /// Hashes an event once, for the window's table and for the comparison of payloads.
    pub fn identify(&mut self, event: &UsageEvent<'_>) -> Identity {
        let identity = self.hash(&[&event.organization_id.to_le_bytes(), event.request_id.as_bytes()]);
        let payload = self.hash(&[
            &event.api_key_id.to_le_bytes(),
            &event.weight.to_le_bytes(),
            &[u8::from(event.billable)],
            event.method.as_bytes(),
            &[0], // No text holds a NUL, so this keeps the two apart.
            event.endpoint.as_bytes(),
        ]);
        let [a, b, c, d, ..] = payload.to_le_bytes();
        Identity { hash: identity, fingerprint: u32::from_le_bytes([a, b, c, d]) }
    }

    fn hash(&mut self, pieces: &[&[u8]]) -> u128 {
        self.scratch.clear();
        pieces.iter().for_each(|piece| self.scratch.extend_from_slice(piece));
        self.hasher.hash(&self.scratch).as_u128()
    }
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
        let mut hasher = IdentityHasher::new([1; 16]);
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
