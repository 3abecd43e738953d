use super::{Error, Node};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_law_fails_ends_and_says_that_it_failed() {
    let dir = tempfile::tempdir().expect("a folder");
    let overrides = althing_config::Overrides {
        data_dir: Some(dir.path().to_owned()),
        listen: Some("127.0.0.1:0".to_owned()),
    };
    let config = althing_config::load_text("{}", &[], &overrides, &[]).expect("a configuration");
    let node = Node::start(config, false).await.expect("it starts");
    let control = node.control.clone();
    let poison = async {
        control.poison().await;
        std::future::pending::<()>().await;
    };
    let served = tokio::select! {
        it = node.serve(std::future::pending::<()>) => it,
        () = poison => unreachable!(),
    };
    assert!(matches!(served, Err(Error::Failed(_))), "{served:?}");
}
