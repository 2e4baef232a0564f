"""Explanations as pictures: panels of pixels, and figures of panels in SVG and PDF."""
