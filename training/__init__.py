"""Scripts that make the embedded models; the product never imports them."""
