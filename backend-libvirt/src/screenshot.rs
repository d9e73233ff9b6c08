//! What is on a screen, as PNG, whatever the driver made of it.

use std::io::Cursor;

use bytes::Bytes;
use runner_core::hypervisor::Png;

use crate::connection::Picture;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
/// The longest side of a picture, in pixels: more than any screen.
const MAX_SIDE: u32 = 16384;

/// `picture` as PNG, which it may be already.
///
/// # Errors
/// In words, for what is no picture in the formats of libvirt's drivers, PNG and PPM.
pub(crate) fn png(picture: Picture) -> Result<Png, String> {
    let Picture { mime, bytes } = picture;
    // What it is counts, not what it is called.
    if bytes.starts_with(PNG) {
        return Ok(Png(Bytes::from(bytes)));
    }
    let pixels =
        Pixels::parse(&bytes).map_err(|why| format!("a picture of type {mime:?} {why}"))?;
    pixels.encode().map(|png| Png(Bytes::from(png))).map_err(|error| error.to_string())
}

/// A picture of three bytes a pixel, red, green and blue, by row.
#[derive(Debug, PartialEq, Eq)]
struct Pixels<'a> {
    width: u32,
    height: u32,
    rgb: &'a [u8],
}

impl<'a> Pixels<'a> {
    /// Reads a binary PPM of one byte a colour, which is what QEMU writes.
    ///
    /// The format: <https://netpbm.sourceforge.net/doc/ppm.html>.
    fn parse(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let mut rest = bytes.strip_prefix(b"P6").ok_or("is neither PNG nor PPM")?;
        let mut number = || {
            let (value, after) = number(rest)?;
            rest = after;
            Some(value)
        };
        let broken = "has a broken header";
        let (width, height, most) =
            (number().ok_or(broken)?, number().ok_or(broken)?, number().ok_or(broken)?);
        if most != 255 {
            return Err("has colours of an unusual depth");
        }
        if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
            return Err("has no size that a screen has");
        }
        // One white space separates header and pixels.
        let pixels = match rest.split_first() {
            Some((space, pixels)) if space.is_ascii_whitespace() => pixels,
            _ => return Err(broken),
        };
        // Three times the square of `MAX_SIDE` is far from the end of the numbers.
        let size = 3 * width as usize * height as usize;
        let rgb = pixels.get(..size).ok_or("ends too early")?;
        Ok(Self { width, height, rgb })
    }

    fn encode(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut all = Cursor::new(Vec::new());
        let mut encoder = png::Encoder::new(&mut all, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(self.rgb)?;
        writer.finish()?;
        Ok(all.into_inner())
    }
}

/// A number, after white space and comments, and what follows it.
fn number(mut rest: &[u8]) -> Option<(u32, &[u8])> {
    let separated = rest.first().is_some_and(|byte| byte.is_ascii_whitespace() || *byte == b'#');
    loop {
        match rest.split_first()? {
            (byte, after) if byte.is_ascii_whitespace() => rest = after,
            (b'#', after) => {
                let end = after.iter().position(|byte| matches!(byte, b'\n' | b'\r'))?;
                rest = &after[end..];
            }
            _ => break,
        }
    }
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let text = std::str::from_utf8(&rest[..digits]).ok()?;
    Some((text.parse().ok()?, &rest[digits..])).filter(|_| separated)
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    const PPM: &[u8] = b"P6\n# by hand\n2 1\n255\n\x01\x02\x03\xff\xfe\xfd";

    fn picture(bytes: &[u8]) -> Picture {
        Picture { mime: "image/x-portable-pixmap".to_owned(), bytes: bytes.to_vec() }
    }

    #[test]
    fn a_ppm_becomes_a_png_of_the_same_pixels() {
        let made = png(picture(PPM)).unwrap().0;
        let mut reader = png::Decoder::new(Cursor::new(&made[..])).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (2, 1));
        assert_eq!(&pixels[..info.buffer_size()], [1, 2, 3, 255, 254, 253]);
    }

    #[test]
    fn a_png_stays_as_it_is() {
        let bytes = [PNG, b"whatever"].concat();
        assert_eq!(&png(picture(&bytes)).unwrap().0[..], bytes);
    }

    #[test]
    fn what_is_no_picture_is_an_error() {
        for garbage in [
            &b""[..],
            b"P",
            b"P5\n2 1\n255\n123456",
            b"P6",
            b"P6\n",
            b"P6\n# no end",
            b"P62 1\n255\n123456",
            b"P6\n2\n",
            b"P6\n-2 1\n255\n123456",
            b"P6\n2 1\n65535\n123456",
            b"P6\n0 1\n255\n",
            b"P6\n99999999999999999999 1\n255\n",
            b"P6\n16384 16384\n255\n123",
            b"P6\n4294967295 4294967295\n255\n123",
            b"P6\n2 1\n255",
            b"P6\n2 1\n255123456",
            b"P6\n2 1\n255\n12345",
        ] {
            assert!(png(picture(garbage)).is_err(), "{}", garbage.escape_ascii());
        }
    }

    #[test]
    fn garbage_is_survived() {
        let mut rng = rand::rng();
        for _ in 0..20_000 {
            let mut bytes = PPM.to_vec();
            for _ in 0..rng.random_range(1..6) {
                let at = rng.random_range(0..bytes.len());
                match rng.random_range(0..3) {
                    0 => bytes[at] = rng.random(),
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, rng.random()),
                }
            }
            // Whatever it is: an error or a picture, and no panic.
            if let Ok(made) = png(picture(&bytes)) {
                assert!(made.0.starts_with(PNG));
            }
        }
    }
}
