//! The hashes that names of ReplicaSets and ControllerRevisions are made from.

/// FNV, 32 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>), in both of its orders.
pub(crate) struct Fnv32 {
    state: u32,
    /// FNV-1a mixes the byte in before it multiplies, FNV-1 after.
    xor_first: bool,
}

impl Fnv32 {
    const OFFSET: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;

    /// FNV-1, which upstream uses for ControllerRevisions.
    pub(crate) fn fnv1() -> Self {
        Self { state: Self::OFFSET, xor_first: false }
    }

    /// FNV-1a, which upstream uses for pod templates.
    pub(crate) fn fnv1a() -> Self {
        Self { state: Self::OFFSET, xor_first: true }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let byte = u32::from(*byte);
            self.state = if self.xor_first {
                (self.state ^ byte).wrapping_mul(Self::PRIME)
            } else {
                self.state.wrapping_mul(Self::PRIME) ^ byte
            };
        }
    }

    /// The hash in letters and digits that form no words.
    pub(crate) fn encoded(&self) -> String {
        safe_encode(&self.state.to_string())
    }
}

/// apimachinery's SafeEncodeString: neither vowels nor digits that look like them.
fn safe_encode(text: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    text.bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_matches_its_published_vectors() {
        for (input, fnv1, fnv1a) in
            [("", 0x811c_9dc5, 0x811c_9dc5), ("a", 0x050c_5d7e, 0xe40c_292c), ("foobar", 0x31f0_b262, 0xbf9c_f968)]
        {
            let (mut one, mut one_a) = (Fnv32::fnv1(), Fnv32::fnv1a());
            one.write(input.as_bytes());
            one_a.write(input.as_bytes());
            assert_eq!((one.state, one_a.state), (fnv1, fnv1a), "{input}");
        }
    }

    #[test]
    fn encoding_has_no_vowels() {
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
    }
}
