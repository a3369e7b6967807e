//! Page images without their zeros. Most of a page that a small transaction touches is space that nothing was written to yet;
//! it is neither logged, sent nor checksummed.
//!
//! An image is split into words of 16 bytes. Of each run of words that are not all zero its place and its bytes are kept:
//!
//! | size | field |
//! | --- | --- |
//! | 2 | number of runs |
//! | 4 each | for each run: its first word (2), how many words it has (2); ascending, with zeros between |
//! | | the bytes of all runs |

use bytes::{BufMut, Bytes};

use crate::codec::RecordError;

/// A run costs 4 bytes and saves the zeros before it, so a single word of zeros is worth one; smaller words would find few more
/// zeros and take longer to look at.
const WORD: usize = 16;
/// Number of runs.
const HEADER: usize = 2;
/// First word and length of a run.
const RUN: usize = 4;

/// Number of the next word from `word` on for which `is_zero` holds, or the number of words.
fn find(image: &[u8], word: usize, is_zero: bool) -> usize {
    let rest = image[word * WORD..].chunks_exact(WORD);
    word + rest.take_while(|bytes| (**bytes == [0; WORD]) != is_zero).count()
}

/// Calls `run` with first word and length of every run.
fn runs(image: &[u8], mut run: impl FnMut(usize, usize)) {
    let words = image.len() / WORD;
    let mut at = find(image, 0, false);
    while at < words {
        let end = find(image, at, true);
        run(at, end - at);
        at = find(image, end, false);
    }
}

/// Bytes that [`write`] will append.
pub(crate) fn encoded_len(image: &[u8]) -> usize {
    let mut length = HEADER;
    runs(image, |_, words| length += RUN + words * WORD);
    length
}

/// Appends an image whose size is one of SQLite's page sizes.
pub(crate) fn write(image: &[u8], bytes: &mut Vec<u8>) {
    let start = bytes.len();
    let mut count = 0u16;
    bytes.put_u16_le(0);
    runs(image, |first, words| {
        // The largest page has 4096 words.
        bytes.put_u16_le(first as u16);
        bytes.put_u16_le(words as u16);
        count += 1;
    });
    bytes[start..start + HEADER].copy_from_slice(&count.to_le_bytes());
    runs(image, |first, words| bytes.put_slice(&image[first * WORD..(first + words) * WORD]));
}

/// Takes an image of `size` bytes off the front of `body`. One without zeros shares its memory.
pub(crate) fn read(body: &mut Bytes, size: usize) -> Result<Bytes, RecordError> {
    const SHORT: RecordError = RecordError::Malformed("a page image ends early");
    const ORDER: RecordError = RecordError::Malformed("the runs of a page image do not fit its size");
    let field = |body: &Bytes, at: usize| {
        body.get(at..at + 2).map(|field| usize::from(u16::from_le_bytes([field[0], field[1]]))).ok_or(SHORT)
    };
    let count = field(body, 0)?;
    let data = HEADER + count * RUN;
    if body.len() < data {
        return Err(SHORT);
    }
    let heads = body.split_to(data);
    let run =
        |nth: usize| Ok::<_, RecordError>((field(&heads, HEADER + nth * RUN)?, field(&heads, HEADER + nth * RUN + 2)?));
    if count == 1 && run(0)? == (0, size / WORD) {
        return if body.len() < size { Err(SHORT) } else { Ok(body.split_to(size)) };
    }
    let mut image = vec![0; size];
    let mut free = 0;
    for nth in 0..count {
        let (first, words) = run(nth)?;
        let place = image.get_mut(first * WORD..(first + words) * WORD).filter(|_| first >= free && words > 0);
        let place = place.ok_or(ORDER)?;
        if body.len() < place.len() {
            return Err(SHORT);
        }
        place.copy_from_slice(&body.split_to(place.len()));
        free = first + words;
    }
    Ok(Bytes::from(image))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(image: &[u8]) -> Bytes {
        let mut bytes = Vec::new();
        write(image, &mut bytes);
        assert_eq!(bytes.len(), encoded_len(image));
        Bytes::from(bytes)
    }

    #[test]
    fn zeros_cost_nothing_and_a_full_page_hardly_anything() {
        assert_eq!(encoded_len(&[0; 4096]), HEADER);
        assert_eq!(encoded_len(&[1; 65_536]), HEADER + RUN + 65_536);
        let mut image = vec![0; 4096];
        image[17] = 1;
        image[4095] = 1;
        assert_eq!(encoded_len(&image), HEADER + 2 * (RUN + WORD));
    }

    #[test]
    fn runs_that_make_no_page_are_refused() {
        let run = |first: u16, words: u16| [first.to_le_bytes(), words.to_le_bytes()].concat();
        let cases = [
            vec![vec![1, 0], run(32, 1), vec![7; 16]],
            vec![vec![1, 0], run(0, 33), vec![7; 33 * 16]],
            vec![vec![1, 0], run(0, 0)],
            vec![vec![2, 0], run(3, 2), run(4, 1), vec![7; 48]],
            vec![vec![2, 0], run(4, 1), run(3, 1), vec![7; 32]],
            vec![vec![1, 0], run(3, 2), vec![7; 31]],
            vec![vec![1, 0], run(0, 32), vec![7; 511]],
            vec![vec![1, 0, 0]],
            vec![vec![1]],
        ];
        for case in cases {
            let case = case.concat();
            assert!(matches!(read(&mut Bytes::from(case.clone()), 512), Err(RecordError::Malformed(_))), "{case:?}");
        }
    }

    proptest! {
        #[test]
        fn every_image_comes_back_and_nothing_behind_it_is_touched(
            pieces in proptest::collection::vec((0usize..512, 1usize..40, 0u8..3), 0..12), size in 0u32..3
        ) {
            let mut image = vec![0u8; 512 << size];
            for (at, length, byte) in pieces {
                image[at..].iter_mut().take(length).for_each(|place| *place = byte);
            }
            let mut body = Bytes::from([&encoded(&image)[..], b"rest"].concat());
            prop_assert_eq!(&read(&mut body, image.len()).unwrap()[..], &image[..]);
            prop_assert_eq!(&body[..], b"rest");
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = read(&mut Bytes::from(bytes), 512);
        }
    }
}
