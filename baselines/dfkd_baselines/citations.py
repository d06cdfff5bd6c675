"""BibTeX entries of the papers whose methods are here, by arXiv identifier."""

from __future__ import annotations

__all__ = ["CITATIONS"]

CITATIONS: dict[str, str] = {
    "1912.08795": """\
@inproceedings{yin2020dreaming,
  title = {Dreaming to Distill: Data-Free Knowledge Transfer via {DeepInversion}},
  author = {Yin, Hongxu and Molchanov, Pavlo and Alvarez, Jose M. and Li, Zhizhong and Mallya, Arun and Hoiem, Derek
            and Jha, Niraj K. and Kautz, Jan},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2020},
  eprint = {1912.08795},
  archiveprefix = {arXiv}
}""",
    "2105.08584": """\
@inproceedings{fang2021contrastive,
  title = {Contrastive Model Inversion for Data-Free Knowledge Distillation},
  author = {Fang, Gongfan and Song, Jie and Wang, Xinchao and Shen, Chengchao and Wang, Xingen and Song, Mingli},
  booktitle = {International Joint Conference on Artificial Intelligence (IJCAI)},
  year = {2021},
  eprint = {2105.08584},
  archiveprefix = {arXiv}
}""",
    "1904.01186": """\
@inproceedings{chen2019data,
  title = {Data-Free Learning of Student Networks},
  author = {Chen, Hanting and Wang, Yunhe and Xu, Chang and Yang, Zhaohui and Liu, Chuanjian and Shi, Boxin and
            Xu, Chunjing and Xu, Chao and Tian, Qi},
  booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
  year = {2019},
  eprint = {1904.01186},
  archiveprefix = {arXiv}
}""",
    "1905.09768": """\
@inproceedings{micaelli2019zero,
  title = {Zero-shot Knowledge Transfer via Adversarial Belief Matching},
  author = {Micaelli, Paul and Storkey, Amos},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year = {2019},
  eprint = {1905.09768},
  archiveprefix = {arXiv}
}""",
    "1912.11006": """\
@article{fang2019data,
  title = {Data-Free Adversarial Distillation},
  author = {Fang, Gongfan and Song, Jie and Shen, Chengchao and Wang, Xinchao and Chen, Da and Song, Mingli},
  journal = {arXiv preprint arXiv:1912.11006},
  year = {2019}
}""",
    "2005.04136": """\
@inproceedings{choi2020data,
  title = {Data-Free Network Quantization With Adversarial Knowledge Distillation},
  author = {Choi, Yoojin and Choi, Jihwan and El-Khamy, Mostafa and Lee, Jungwon},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops},
  year = {2020},
  eprint = {2005.04136},
  archiveprefix = {arXiv}
}""",
    "2112.06253": """\
@inproceedings{fang2022up,
  title = {Up to 100x Faster Data-Free Knowledge Distillation},
  author = {Fang, Gongfan and Mo, Kanya and Wang, Xinchao and Song, Jie and Bei, Shitao and Zhang, Haofei and
            Song, Mingli},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year = {2022},
  eprint = {2112.06253},
  archiveprefix = {arXiv}
}""",
    "2307.04542": """\
@inproceedings{luo2023customizing,
  title = {Customizing Synthetic Data for Data-Free Student Learning},
  author = {Luo, Shiya and Chen, Defang and Wang, Can},
  booktitle = {IEEE International Conference on Multimedia and Expo (ICME)},
  year = {2023},
  doi = {10.1109/ICME55011.2023.00312},
  eprint = {2307.04542},
  archiveprefix = {arXiv}
}""",
    "2310.00258": """\
@inproceedings{tran2024nayer,
  title = {{NAYER}: Noisy Layer Data Generation for Efficient and Effective Data-free Knowledge Distillation},
  author = {Tran, Minh-Tuan and Le, Trung and Le, Xuan-May and Harandi, Mehrtash and Tran, Quan Hung and Phung, Dinh},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2024},
  eprint = {2310.00258},
  archiveprefix = {arXiv}
}""",
    "2112.00725": """\
@inproceedings{asano2023augmented,
  title = {The Augmented Image Prior: Distilling 1000 Classes by Extrapolating from a Single Image},
  author = {Asano, Yuki M. and Saeed, Aaqib},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year = {2023},
  eprint = {2112.00725},
  archiveprefix = {arXiv}
}""",
    "1503.02531": """\
@article{hinton2015distilling,
  title = {Distilling the Knowledge in a Neural Network},
  author = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  journal = {arXiv preprint arXiv:1503.02531},
  year = {2015}
}""",
}
