//! The keyed hash against the standard library's and against the paper's construction, byte by byte.

use std::hash::{DefaultHasher, Hasher as _};

use lb_common::siphash::{Key, hash};
use proptest::prelude::{prop_assert_eq, proptest};

const ZERO: Key = Key { k0: 0, k1: 0 };

/// SipHash-c-d as its paper writes it down, over bytes.
fn reference(key: Key, message: &[u8], compressions: u32, finalisations: u32) -> u64 {
    fn rounds(v: &mut [u64; 4], count: u32) {
        for _ in 0..count {
            v[0] = v[0].wrapping_add(v[1]);
            v[2] = v[2].wrapping_add(v[3]);
            v[1] = v[1].rotate_left(13);
            v[3] = v[3].rotate_left(16);
            v[1] ^= v[0];
            v[3] ^= v[2];
            v[0] = v[0].rotate_left(32);
            v[2] = v[2].wrapping_add(v[1]);
            v[0] = v[0].wrapping_add(v[3]);
            v[1] = v[1].rotate_left(17);
            v[3] = v[3].rotate_left(21);
            v[1] ^= v[2];
            v[3] ^= v[0];
            v[2] = v[2].rotate_left(32);
        }
    }
    let initial = *b"somepseudorandomlygeneratedbytes";
    let mut v = [0, 8, 16, 24].map(|at| u64::from_be_bytes(initial[at..at + 8].try_into().unwrap()));
    for (lane, half) in v.iter_mut().zip([key.k0, key.k1, key.k0, key.k1]) {
        *lane ^= half;
    }
    let mut padded = message.to_vec();
    padded.resize((message.len() / 8 + 1) * 8 - 1, 0);
    padded.push(message.len() as u8);
    for block in padded.chunks_exact(8) {
        let word = u64::from_le_bytes(block.try_into().unwrap());
        v[3] ^= word;
        rounds(&mut v, compressions);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    rounds(&mut v, finalisations);
    v.into_iter().fold(0, |sum, lane| sum ^ lane)
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// SipHash-1-3 of any bytes, for the tests of what is built on it.
pub fn siphash_1_3(key: Key, message: &[u8]) -> u64 {
    reference(key, message, 1, 3)
}

#[test]
fn the_reference_gives_the_papers_test_vector() {
    let key = Key { k0: 0x0706_0504_0302_0100, k1: 0x0f0e_0d0c_0b0a_0908 };
    let message: Vec<u8> = (0..15).collect();
    assert_eq!(reference(key, &message, 2, 4), 0xa129_ca61_49be_45e5);
}

fn standard<const N: usize>(words: [u64; N], tail: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&[bytes(&words), tail.to_vec()].concat());
    hasher.finish()
}

/// The first bytes of a word, and the word without the others.
fn cut(word: u64, length: usize) -> (Vec<u8>, u64) {
    (word.to_le_bytes()[..length].to_vec(), word & ((1 << (8 * length)) - 1))
}

#[test]
fn no_words_hash_as_the_empty_message() {
    assert_eq!(hash(ZERO, [], 0, 0), standard([], &[]));
}

proptest! {
    #[test]
    fn a_zero_key_hashes_as_the_standard_library(two: [u64; 2], four: [u64; 4], word: u64, length in 0..8usize) {
        let (tail, kept) = cut(word, length);
        prop_assert_eq!(hash(ZERO, [], kept, length as u64), standard([], &tail));
        prop_assert_eq!(hash(ZERO, two, kept, length as u64), standard(two, &tail));
        prop_assert_eq!(hash(ZERO, four, kept, length as u64), standard(four, &tail));
    }

    #[test]
    fn any_key_hashes_as_the_paper_says(k0: u64, k1: u64, words: [u64; 3], word: u64, length in 0..8usize) {
        let (key, (tail, kept)) = (Key { k0, k1 }, cut(word, length));
        let message = [bytes(&words), tail].concat();
        prop_assert_eq!(hash(key, words, kept, length as u64), siphash_1_3(key, &message));
    }
}
