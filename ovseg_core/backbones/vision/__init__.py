"""The second network of a job: plain ViTs by timm, the decoder of a diffusion UNet."""
