//! UUIDs from their text form without a general parser. Pure; runs once or twice per message.

/// Parses the hyphenated form (RFC 9562: 36 characters, either case) as a big-endian number.
pub fn parse(text: &str) -> Option<u128> {
    let bytes: &[u8; 36] = text.as_bytes().try_into().ok()?;
    let mut value: u128 = 0;
    for (idx, &byte) in bytes.iter().enumerate() {
        if matches!(idx, 8 | 13 | 18 | 23) {
            if byte != b'-' {
                return None;
            }
            continue;
        }
        value = value << 4 | u128::from(HEX_DIGIT[usize::from(byte)]?);
    }
    Some(value)
}

/// The value of each byte as a hexadecimal digit.
const HEX_DIGIT: [Option<u8>; 256] = {
    let mut table = [None; 256];
    let mut digit = 0;
    while digit < 10 {
        table[(b'0' + digit) as usize] = Some(digit);
        digit += 1;
    }
    let mut letter = 0;
    while letter < 6 {
        table[(b'a' + letter) as usize] = Some(10 + letter);
        table[(b'A' + letter) as usize] = Some(10 + letter);
        letter += 1;
    }
    table
};

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
    fn other_spellings_are_refused() {
        for text in [
            "",
            "6ba7b8109dad11d180b400c04fd430c8",
            "{6ba7b810-9dad-11d1-80b4-00c04fd430c8}",
            "6ba7b810-9dad-11d1-80b4-00c04fd430cg",
            "6ba7b810-9dad-11d1-80b4+00c04fd430c8",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
