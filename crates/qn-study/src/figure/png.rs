//! An SVG in pixels.

use anyhow::{Context as _, Result, bail};

use crate::output::MARK;

/// Fonts looked for by name, before any other.
const SANS_SERIF: [&str; 5] = ["DejaVu Sans", "Liberation Sans", "Noto Sans", "Arial", "Helvetica"];

/// The SVG in pixels, with the system's fonts.
pub(super) fn png(svg: &str, scale: f32) -> Result<Vec<u8>> {
    use resvg::{tiny_skia, usvg};
    let mut options = usvg::Options::default();
    options.fontdb_mut().load_system_fonts();
    let families: Vec<String> =
        options.fontdb.faces().filter_map(|face| Some(face.families.first()?.0.clone())).collect();
    let known = SANS_SERIF.iter().find(|known| families.iter().any(|family| family == *known));
    let Some(family) = known.map(|name| (*name).to_owned()).or_else(|| families.first().cloned()) else {
        bail!(
            "there is no font on this system: install one (for example fonts-dejavu-core), or write an .svg"
        );
    };
    options.fontdb_mut().set_sans_serif_family(family);
    let tree = usvg::Tree::from_str(svg, &options).context("cannot read the figure back")?;
    let size = tree.size().to_int_size().scale_by(scale).context("the scale is too small")?;
    let mut pixels = tiny_skia::Pixmap::new(size.width(), size.height()).context("the scale is too large")?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut pixels.as_mut());
    encoded(pixels).context("cannot write the PNG")
}

/// A PNG with [`MARK`] as its text.
fn encoded(pixels: resvg::tiny_skia::Pixmap) -> Result<Vec<u8>> {
    let (width, height) = (pixels.width(), pixels.height());
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(::png::ColorType::Rgba);
    encoder.set_depth(::png::BitDepth::Eight);
    encoder.add_text_chunk("Software".into(), MARK.into())?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels.take_demultiplied())?;
    writer.finish()?;
    Ok(bytes)
}
