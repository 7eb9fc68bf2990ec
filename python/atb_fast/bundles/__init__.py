"""Writing bundles: ONNX export, documents, publishing, promotion."""
