"""Named tensors of recorded generations, kept between edits."""
