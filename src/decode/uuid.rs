//! UUIDs from their text form without a general parser. Pure; runs once or twice per message.

/// Parses the hyphenated form (RFC 9562: 36 characters, either case) as a big-endian number.
pub fn parse(text: &str) -> Option<u128> {
    let bytes: &[u8; 36] = text.as_bytes().try_into().ok()?;
    let &[
        a0,
        a1,
        a2,
        a3,
        a4,
        a5,
        a6,
        a7,
        b'-',
        b0,
        b1,
        b2,
        b3,
        b'-',
        c0,
        c1,
        c2,
        c3,
        b'-',
        d0,
        d1,
        d2,
        d3,
        b'-',
        e0,
        e1,
        e2,
        e3,
        e4,
        e5,
        e6,
        e7,
        e8,
        e9,
        e10,
        e11,
    ] = bytes
    else {
        return None;
    };
    let words = [
        eight_digits([a0, a1, a2, a3, a4, a5, a6, a7])?,
        eight_digits([b0, b1, b2, b3, c0, c1, c2, c3])?,
        eight_digits([d0, d1, d2, d3, e0, e1, e2, e3])?,
        eight_digits([e4, e5, e6, e7, e8, e9, e10, e11])?,
    ];
    Some(words.iter().fold(0, |value, &word| value << 32 | u128::from(word)))
}

/// Eight hexadecimal digits at once, a byte of a 64-bit word each.
fn eight_digits(digits: [u8; 8]) -> Option<u32> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x80 * ONES;
    let text = u64::from_le_bytes(digits);
    if text & TOPS != 0 {
        return None; // No ASCII.
    }
    let lower = text | (0x20 * ONES);
    // Of ASCII nothing carries into the next byte, and a byte's top bit tells how its sum compares.
    let is_decimal = (text + (0x80 - 0x30) * ONES) & !(text + (0x7f - 0x39) * ONES);
    let is_letter = (lower + (0x80 - 0x61) * ONES) & !(lower + (0x7f - 0x66) * ONES);
    if (is_decimal | is_letter) & TOPS != TOPS {
        return None;
    }
    let values = (text & (0x0f * ONES)) + 9 * ((is_letter & TOPS) >> 7);
    // The first digit is in the lowest byte: pairs, fours, all eight.
    let pairs = (values << 4 | values >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    let [b0, b1, _, _, b4, b5, _, _] = fours.to_le_bytes();
    Some(u32::from_be_bytes([b0, b1, b4, b5]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn print(value: u128) -> String {
        let hex = format!("{value:032x}");
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    proptest! {
        #[test]
        fn every_uuid_comes_back(value: u128) {
            prop_assert_eq!(parse(&print(value)), Some(value));
            prop_assert_eq!(parse(&print(value).to_uppercase()), Some(value));
        }

        #[test]
        fn nothing_else_is_a_uuid(text in "[0-9a-g-]{30,40}") {
            if let Some(value) = parse(&text) {
                prop_assert_eq!(print(value), text);
            }
        }
    }

    #[test]
    fn a_digit_is_one_of_22_bytes_at_every_place() {
        let valid = *b"6ba7b810-9dad-11d1-80b4-00c04fd430c8";
        for place in 0..36 {
            for byte in 0..128 {
                let mut text = valid;
                text[place] = byte;
                let is_valid = if valid[place] == b'-' { byte == b'-' } else { byte.is_ascii_hexdigit() };
                assert_eq!(
                    parse(std::str::from_utf8(&text).unwrap()).is_some(),
                    is_valid,
                    "{byte} at {place}"
                );
            }
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "6ba7b8109dad11d180b400c04fd430c8",
            "{6ba7b810-9dad-11d1-80b4-00c04fd430c8}",
            "6ba7b810-9dad-11d1-80b4-00c04fd430cg",
            "6ba7b810-9dad-11d1-80b4+00c04fd430c8",
            "6ba7b810-9dad-11d1-80b4-00c04fd430é",
            "6ba7b8\u{bf}-9dad-11d1-80b4-00c04fd430c8",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
