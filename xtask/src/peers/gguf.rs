//! A Llama model with random weights in the GGUF file format, version 3.
//!
//! It says nothing sensible, at the speed of a real model of its size: each token is one of the vocabulary's words,
//! never a control token, half of a character or the end.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

/// Numbers of the format.
mod format {
    pub const MAGIC: &[u8; 4] = b"GGUF";
    pub const VERSION: u32 = 3;
    pub const ALIGNMENT: u64 = 32;
    pub const UINT32: u32 = 4;
    pub const INT32: u32 = 5;
    pub const FLOAT32: u32 = 6;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const TENSOR_F32: u32 = 0;
    pub const TENSOR_F16: u32 = 1;
}

/// What a token is, by llama.cpp's numbers.
mod token {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const BYTE: i32 = 6;
}

/// Width of an attention head.
const HEAD: u64 = 64;
const CONTEXT: u32 = 16384;

/// In the 16-bit floating point format: what every embedding has in its first place, and what the output row of
/// a token that must not come has there. Their product decides; rows of words have 0.
const SIX: u16 = 0x4600;
const MINUS_TWENTY: u16 = 0xCD00;

/// Powers of two that random weights are around: embeddings, output rows, everything else.
const EMBEDDING: i16 = -1;
const OUTPUT: i16 = -3;
const INNER: i16 = -6;

/// Sizes of a model.
#[derive(Clone, Copy)]
pub struct Model {
    /// Width of the residual stream, a multiple of [`HEAD`].
    pub width: u64,
    /// Layers.
    pub layers: u32,
    /// Width of the feed-forward part.
    pub hidden: u64,
}

/// The contents of a tensor.
#[derive(Clone, Copy)]
enum Weights {
    Ones,
    Random(i16),
    Embedding,
    Output,
}

struct Tensor {
    name: String,
    /// Length of a row, and rows.
    shape: (u64, u64),
    weights: Weights,
}

impl Tensor {
    fn bytes(&self) -> u64 {
        let size = if matches!(self.weights, Weights::Ones) { 4 } else { 2 };
        self.shape.0 * self.shape.1 * size
    }
}

impl Model {
    /// Writes the model to a file; the same sizes give the same bytes.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let vocabulary = vocabulary();
        let tensors = self.tensors(vocabulary.len() as u64);
        let mut head = Head::default();
        self.describe(&mut head, &vocabulary);
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&head.finish(&tensors))?;
        let mut random = Random(1);
        for tensor in &tensors {
            fill(tensor, &vocabulary, &mut random, &mut file)?;
            let rest = tensor.bytes().next_multiple_of(format::ALIGNMENT) - tensor.bytes();
            file.write_all(&vec![0; rest as usize])?;
        }
        file.flush()
    }

    fn describe(&self, head: &mut Head, vocabulary: &[(String, i32)]) {
        let heads = (self.width / HEAD) as u32;
        head.text("general.architecture", "llama");
        head.text("general.name", "random");
        for (key, value) in [
            ("context_length", CONTEXT),
            ("embedding_length", self.width as u32),
            ("block_count", self.layers),
            ("feed_forward_length", self.hidden as u32),
            ("attention.head_count", heads),
            ("attention.head_count_kv", heads),
            ("rope.dimension_count", HEAD as u32),
            ("vocab_size", vocabulary.len() as u32),
        ] {
            head.number(&format!("llama.{key}"), value);
        }
        head.real("llama.attention.layer_norm_rms_epsilon", 1e-5);
        head.text("tokenizer.ggml.model", "llama");
        let texts: Vec<_> = vocabulary.iter().map(|(text, _)| string(text)).collect();
        head.array("tokenizer.ggml.tokens", format::STRING, &texts);
        // Earlier tokens are merged first.
        let scores: Vec<_> = (0..vocabulary.len()).map(|rank| (-(rank as f32)).to_le_bytes()).collect();
        head.array("tokenizer.ggml.scores", format::FLOAT32, &scores);
        let kinds: Vec<_> = vocabulary.iter().map(|(_, kind)| kind.to_le_bytes()).collect();
        head.array("tokenizer.ggml.token_type", format::INT32, &kinds);
        for (role, number) in [("unknown", 0), ("bos", 1), ("eos", 2)] {
            head.number(&format!("tokenizer.ggml.{role}_token_id"), number);
        }
    }

    fn tensors(&self, tokens: u64) -> Vec<Tensor> {
        let (width, hidden) = (self.width, self.hidden);
        let tensor = |name: String, shape, weights| Tensor { name, shape, weights };
        let mut tensors = vec![
            tensor("token_embd.weight".to_owned(), (width, tokens), Weights::Embedding),
            tensor("output_norm.weight".to_owned(), (width, 1), Weights::Ones),
            tensor("output.weight".to_owned(), (width, tokens), Weights::Output),
        ];
        let inner = Weights::Random(INNER);
        for layer in 0..self.layers {
            tensors.extend(
                [
                    ("attn_norm", (width, 1), Weights::Ones),
                    ("attn_q", (width, width), inner),
                    ("attn_k", (width, width), inner),
                    ("attn_v", (width, width), inner),
                    ("attn_output", (width, width), inner),
                    ("ffn_norm", (width, 1), Weights::Ones),
                    ("ffn_gate", (width, hidden), inner),
                    ("ffn_up", (width, hidden), inner),
                    ("ffn_down", (hidden, width), inner),
                ]
                .map(|(part, shape, weights)| tensor(format!("blk.{layer}.{part}.weight"), shape, weights)),
            );
        }
        tensors
    }
}

/// Texts of all tokens and what each is: control, bytes, and words enough to answer with.
///
/// The tests' prompts are of one word, which is put together from its beginnings.
fn vocabulary() -> Vec<(String, i32)> {
    let special = [("<unk>", token::UNKNOWN), ("<s>", token::CONTROL), ("</s>", token::CONTROL)];
    let mut all: Vec<_> = special.map(|(text, kind)| (text.to_owned(), kind)).into();
    all.extend((0..=u8::MAX).map(|byte| (format!("<0x{byte:02X}>"), token::BYTE)));
    let words = ["\u{2581}t", "\u{2581}th", "\u{2581}the", "\u{2581}"].map(str::to_owned).into_iter();
    let letters = ('a'..='z').map(|letter| letter.to_string());
    let pairs =
        "bdgklmnprst".chars().flat_map(|first| "aeiou".chars().map(move |second| format!("{first}{second}")));
    all.extend(words.chain(letters).chain(pairs).map(|text| (text, token::NORMAL)));
    all
}

/// Writes a tensor's numbers.
fn fill(
    tensor: &Tensor,
    vocabulary: &[(String, i32)],
    random: &mut Random,
    out: &mut impl Write,
) -> io::Result<()> {
    let (length, rows) = tensor.shape;
    let kinds = vocabulary.iter().map(|(_, kind)| Some(*kind)).chain(std::iter::repeat(None));
    for kind in kinds.take(rows as usize) {
        let (first, power) = match tensor.weights {
            Weights::Ones => {
                out.write_all(&1f32.to_le_bytes().repeat(length as usize))?;
                continue;
            }
            Weights::Random(power) => (None, power),
            Weights::Embedding => (Some(SIX), EMBEDDING),
            Weights::Output if kind == Some(token::NORMAL) => (Some(0), OUTPUT),
            Weights::Output => (Some(MINUS_TWENTY), OUTPUT),
        };
        let mut numbers: Vec<u8> = (0..length).flat_map(|_| random.half(power).to_le_bytes()).collect();
        if let Some(first) = first {
            numbers[..2].copy_from_slice(&first.to_le_bytes());
        }
        out.write_all(&numbers)?;
    }
    Ok(())
}

/// Marsaglia's xorshift generator of 64 bits.
struct Random(u64);

impl Random {
    /// A number of either sign from 2^`power` up to twice that, in the 16-bit floating point format.
    fn half(&mut self, power: i16) -> u16 {
        const MANTISSA_BITS: u32 = 10;
        const EXPONENT_BIAS: i16 = 15;
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The upper bits are the better ones.
        let bits = (self.0 >> 48) as u16;
        let sign_and_mantissa = bits & (1 << 15 | ((1 << MANTISSA_BITS) - 1));
        sign_and_mantissa | ((EXPONENT_BIAS + power) as u16) << MANTISSA_BITS
    }
}

/// What precedes the tensors' data.
#[derive(Default)]
struct Head {
    entries: u64,
    bytes: Vec<u8>,
}

impl Head {
    fn entry(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.entries += 1;
        self.bytes.extend([&string(key), &kind.to_le_bytes()[..], value].concat());
    }

    fn text(&mut self, key: &str, value: &str) {
        self.entry(key, format::STRING, &string(value));
    }

    fn number(&mut self, key: &str, value: u32) {
        self.entry(key, format::UINT32, &value.to_le_bytes());
    }

    fn real(&mut self, key: &str, value: f32) {
        self.entry(key, format::FLOAT32, &value.to_le_bytes());
    }

    fn array(&mut self, key: &str, kind: u32, items: &[impl AsRef<[u8]>]) {
        let mut value = kind.to_le_bytes().to_vec();
        value.extend((items.len() as u64).to_le_bytes());
        items.iter().for_each(|item| value.extend(item.as_ref()));
        self.entry(key, format::ARRAY, &value);
    }

    fn finish(self, tensors: &[Tensor]) -> Vec<u8> {
        let mut all = format::MAGIC.to_vec();
        all.extend(format::VERSION.to_le_bytes());
        all.extend((tensors.len() as u64).to_le_bytes());
        all.extend(self.entries.to_le_bytes());
        all.extend(self.bytes);
        let mut offset = 0u64;
        for tensor in tensors {
            let (kind, dimensions) = match tensor.weights {
                Weights::Ones => (format::TENSOR_F32, vec![tensor.shape.0]),
                _ => (format::TENSOR_F16, vec![tensor.shape.0, tensor.shape.1]),
            };
            all.extend(string(&tensor.name));
            all.extend((dimensions.len() as u32).to_le_bytes());
            dimensions.iter().for_each(|length| all.extend(length.to_le_bytes()));
            all.extend(kind.to_le_bytes());
            all.extend(offset.to_le_bytes());
            offset += tensor.bytes().next_multiple_of(format::ALIGNMENT);
        }
        all.resize(all.len().next_multiple_of(format::ALIGNMENT as usize), 0);
        all
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::{Model, vocabulary};

    #[test]
    fn no_two_tokens_have_the_same_text() {
        let mut texts: Vec<_> = vocabulary().into_iter().map(|(text, _)| text).collect();
        let all = texts.len();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), all);
    }

    #[test]
    fn a_model_is_as_long_as_its_head_says_and_the_same_each_time() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let model = Model { width: 64, layers: 2, hidden: 96 };
        let files = ["first", "second"].map(|name| {
            let path = folder.path().join(name);
            model.write(&path).expect("write the model");
            std::fs::read(path).expect("read the model")
        });
        assert_eq!(files[0], files[1]);
        let tensors = model.tensors(vocabulary().len() as u64);
        let data: u64 = tensors.iter().map(|tensor| tensor.bytes().next_multiple_of(32)).sum();
        let head = files[0].len() as u64 - data;
        assert!(head.is_multiple_of(32) && files[0].starts_with(b"GGUF\x03\0\0\0"), "a head of {head} bytes");
    }
}
