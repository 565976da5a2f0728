//! Who calls what: organizations with their API keys, endpoints, status codes, and how often each
//! comes up. Pure; built once per stream.
//!
//! Organization n and its keys have the same ids in every run and for every seed, so that the
//! figures of several runs add up.

use super::random::{Random, Weighted};
use super::text::Uuid;

/// A customer.
#[derive(Debug, Clone)]
pub(super) struct Organization {
    pub(super) id: Uuid,
    pub(super) api_keys: Vec<Uuid>,
    /// Its gateway's name, and the local time that this gateway writes where it writes one.
    pub(super) region: Region,
}

/// Where a gateway stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region {
    pub(super) name: &'static str,
    pub(super) utc_offset_minutes: i16,
}

const REGIONS: [Region; 6] = [
    Region { name: "eu-west", utc_offset_minutes: 60 },
    Region { name: "us-east", utc_offset_minutes: -300 },
    Region { name: "us-west", utc_offset_minutes: -480 },
    Region { name: "ap-south", utc_offset_minutes: 330 },
    Region { name: "ap-east", utc_offset_minutes: 540 },
    Region { name: "sa-east", utc_offset_minutes: -210 },
];

/// Method and path, the busiest first. The path is written as it stands between the quotes of a
/// JSON string; the last ones hold escapes and letters beyond ASCII.
const ENDPOINTS: [(&str, &str); 32] = [
    ("GET", "/v1/orders"),
    ("GET", "/v1/orders/{id}"),
    ("POST", "/v1/orders"),
    ("GET", "/v1/customers/{id}"),
    ("POST", "/v1/search"),
    ("GET", "/v1/products"),
    ("GET", "/v1/products/{id}"),
    ("POST", "/v1/payments"),
    ("GET", "/v1/payments/{id}"),
    ("PATCH", "/v1/orders/{id}"),
    ("GET", "/v1/inventory"),
    ("PUT", "/v1/inventory/{sku}"),
    ("POST", "/v2/completions"),
    ("POST", "/v2/embeddings"),
    ("GET", "/v1/invoices"),
    ("GET", "/v1/invoices/{id}"),
    ("GET", "/v1/invoices/{id}/lines"),
    ("POST", "/v1/webhooks"),
    ("DELETE", "/v1/webhooks/{id}"),
    ("GET", "/v1/users/{id}"),
    ("POST", "/v1/users"),
    ("DELETE", "/v1/users/{id}"),
    ("GET", "/v1/shipments/{id}/events"),
    ("POST", "/v1/refunds"),
    ("GET", "/v1/reports/daily"),
    ("HEAD", "/v1/files/{id}"),
    ("GET", "/v1/files/{id}/content"),
    ("OPTIONS", "/v1/orders"),
    ("GET", r"\/v1\/categories\/{id}"),
    ("GET", "/v1/kategorien/größe"),
    ("GET", r"/v1/caf\u00e9s/\u6771\u4eac"),
    ("GET", r#"/v1/search?q=\"50%\"\\n\ud83d\ude80"#),
];

/// Status codes, and how many of 1,000 responses carry each.
const STATUS_CODES: [(u16, u64); 15] = [
    (200, 820),
    (201, 70),
    (204, 20),
    (304, 10),
    (400, 15),
    (401, 10),
    (403, 5),
    (404, 20),
    (409, 3),
    (429, 10),
    (500, 6),
    (502, 4),
    (503, 5),
    (504, 1),
    (101, 1),
];

/// Everybody, and how busy they are.
#[derive(Debug)]
pub(super) struct Population {
    organizations: Vec<Organization>,
    organization_weights: Weighted,
    endpoint_weights: Weighted,
    status_weights: Weighted,
}

impl Population {
    /// That many organizations, at least one, busy by Zipf's law.
    pub(super) fn new(organization_count: u32) -> Population {
        let organization_count = organization_count.max(1);
        // A seed of its own: people stay who they are whatever the traffic's seed.
        const PEOPLE_SEED: u64 = 0x7573_6167_6520_6f72;
        let mut random = Random::seeded(PEOPLE_SEED);
        Population {
            organizations: (0..organization_count).map(|_| Organization::random(&mut random)).collect(),
            organization_weights: Weighted::zipf(organization_count),
            endpoint_weights: Weighted::zipf(ENDPOINTS.len().try_into().unwrap_or(u32::MAX)),
            status_weights: Weighted::new(STATUS_CODES.map(|(_, weight)| weight)),
        }
    }

    pub(super) fn draw_organization(&self, random: &mut Random) -> &Organization {
        &self.organizations[self.organization_weights.draw(random)]
    }

    /// Method and path, the path as it stands in JSON.
    pub(super) fn draw_endpoint(&self, random: &mut Random) -> (&'static str, &'static str) {
        ENDPOINTS[self.endpoint_weights.draw(random)]
    }

    pub(super) fn draw_status_code(&self, random: &mut Random) -> u16 {
        STATUS_CODES[self.status_weights.draw(random)].0
    }
}

impl Organization {
    fn random(random: &mut Random) -> Organization {
        let id = Uuid::from_random_bits(random.bits_128());
        let key_count = random.between(1, 5);
        let api_keys = (0..key_count).map(|_| Uuid::from_random_bits(random.bits_128())).collect();
        Organization { id, api_keys, region: random.pick(&REGIONS) }
    }

    /// One of its keys; the first is used most.
    pub(super) fn draw_api_key(&self, random: &mut Random) -> Uuid {
        let among = random.between(1, self.api_keys.len() as u64);
        self.api_keys[usize::try_from(random.below(among)).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_population_begins_with_the_smaller_one() {
        let ids = |count| Population::new(count).organizations.iter().map(|org| org.id).collect::<Vec<_>>();
        assert_eq!(ids(3), ids(200)[..3]);
    }

    #[test]
    fn an_organization_has_about_three_keys() {
        let organizations = Population::new(1_000).organizations;
        let key_count: usize = organizations.iter().map(|org| org.api_keys.len()).sum();
        assert!((2_800..3_200).contains(&key_count), "{key_count} keys");
    }

    #[test]
    fn status_codes_are_given_per_thousand() {
        assert_eq!(STATUS_CODES.iter().map(|(_, weight)| weight).sum::<u64>(), 1_000);
    }
}
