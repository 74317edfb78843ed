//! Which partition of `events` a key belongs to: the same as with the Java client's default partitioner, so that events of one key land
//! alike whoever publishes them.

/// The partition of `key` among `partitions`.
#[must_use]
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    // The sign bit is masked, not negated: that is what the Java client does.
    (murmur2(key) & 0x7fff_ffff) % partitions.max(1)
}

/// MurmurHash2 with the seed that Kafka's clients use.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(data.len() & 0xffff_ffff).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !tail.is_empty() {
        let rest = tail
            .iter()
            .rev()
            .fold(0_u32, |rest, byte| (rest << 8) | u32::from(*byte));
        hash = (hash ^ rest).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_the_java_client_does() {
        // Known answers, as signed numbers: that is how Java shows them.
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn every_key_has_a_partition() {
        for key in ["", "a", "ab", "abc", "abcd", "demo"] {
            assert!(partition_of(key.as_bytes(), 16) < 16, "{key}");
            assert_eq!(partition_of(key.as_bytes(), 0), 0);
        }
        assert_eq!(
            partition_of(b"21", 16),
            ((-973_932_308_i32).cast_unsigned() & 0x7fff_ffff) % 16
        );
    }
}
